"""`python -m neuro compare`: options and error messages."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from neuro.__main__ import main
from neuro.analysis.compare.cli import CORRECTIONS
from neuro.analysis.compare.statistics import Correction
from neuro.search.multirun import CompareRuns
from tests.analysis.helpers import gates, two_hundred
from tests.runs.test_record import make

ROOT = Path(__file__).parents[3]
Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return gates(tmp_path / "study")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Compare:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main(["compare", *map(str, arguments)])
        except SystemExit as error:  # argparse's own
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def end_of_multirun(directory: Path, baseline: str | None, mode: str = "train") -> None:
    config = OmegaConf.create({"mode": mode, "hydra": {"sweep": {"dir": str(directory)}}})
    CompareRuns(baseline).on_multirun_end(config)


def test_the_config_allows_all_corrections() -> None:
    assert get_args(Correction) == CORRECTIONS


# -- output ---------------------------------------------------------------------------------------


def test_the_table_and_excluded_runs(study: Path, command: Compare) -> None:
    code, out, _ = command(study)
    assert code == 0
    assert "95.00 ± 12.42 (5.00)" in out
    assert out.index("model.kind=variance") < out.index("model.kind=fixed")
    assert f"excluded: 1 killed ({study / 'killed'})" in out
    assert "Wilcoxon" not in out


def test_a_baseline_adds_tests(study: Path, command: Compare) -> None:
    code, out, _ = command(study, "--baseline", "model.kind=fixed")
    assert code == 0
    assert "against model.kind=fixed: paired by seed, test/accuracy" in out
    assert "p (holm)" in out and "2 comparisons" in out
    assert "all: Wilcoxon cannot reach p < 0.05 with 3 differing pairs" in out


@pytest.mark.parametrize("method", ["benjamini-hochberg", "bonferroni"])
def test_another_correction(study: Path, command: Compare, method: str) -> None:
    out = command(study, "--baseline", study / "fixed", "--correction", method)[1]
    assert f"p ({method})" in " ".join(out.split())


def test_no_correction_and_other_metrics_tested(study: Path, command: Compare) -> None:
    out = command(
        study,
        "--baseline",
        "model.kind=fixed",
        "--correction",
        "none",
        "--test",
        "*/*",
        "--format",
        "markdown",
    )[1]
    assert "| configuration | metric | pairs |" in out and "holm" not in out
    assert "| model.kind=variance | continual/forgetting | 3 | -45.00 ± " in out


def test_metrics_and_sort(study: Path, command: Compare) -> None:
    out = command(
        study, "--metrics", "continual/*", "--sort", "continual/forgetting:max", "--format", "csv"
    )[1]
    rows = list(csv.DictReader(out.splitlines()))
    assert rows[0]["configuration"] == "model.kind=fixed"
    assert float(rows[0]["continual/forgetting mean"]) == pytest.approx(0.5)
    assert not any(column.startswith("test/accuracy") for column in rows[0])


def test_group_by(study: Path, command: Compare) -> None:
    out = command(study, "--group-by", "optimizer.lr,model.tau_ms", "--format", "csv")[1]
    (row,) = csv.DictReader(out.splitlines())
    assert (row["runs"], row["seeds"]) == ("9", "3")


def test_several_directories(study: Path, command: Compare) -> None:
    out = command(study / "fixed", study / "learned", "--format", "csv")[1]
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.csv", "configuration,model.kind"),
        ("a.md", "| configuration"),
        ("a.tex", "\\begin{table}"),
        ("a.html", "<!doctype html>"),
        ("a.txt", " "),
    ],
)
def test_the_suffix_of_the_output_selects_the_format(
    study: Path, command: Compare, name: str, start: str
) -> None:
    file = study.parent / "new" / name
    code, out, _ = command(study, "--output", file)
    assert code == 0 and out == f"3 configurations compared: {file}\n"
    assert file.read_text().lstrip("\n").startswith(start)
    assert [path.name for path in file.parent.iterdir()] == [name]


def test_the_format_overrides_the_suffix(study: Path, command: Compare) -> None:
    command(study, "--output", study / "x.csv", "--format", "latex")
    assert (study / "x.csv").read_text().startswith("\\begin{table}")


def test_notes_are_comments_in_latex(study: Path, command: Compare) -> None:
    out = command(study, "--format", "latex", "--baseline", "model.kind=fixed")[1]
    assert out.count("\\toprule") == 2
    assert "% excluded: 1 killed" in out


def test_latex_compiles(study: Path, command: Compare) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt install texlive-latex-recommended")
    table = command(study, "--format", "latex", "--baseline", "model.kind=fixed")[1]
    file = study / "t.tex"
    file.write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        f"{table}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name],
        cwd=study,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_closed_pipe_is_no_error(study: Path) -> None:
    command = f"{sys.executable} -m neuro compare {study} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- invalid input --------------------------------------------------------------------------------


def test_a_missing_directory(study: Path, command: Compare) -> None:
    code, _, err = command(study.parent / "stduy")
    assert code == 2
    assert "stduy: there is no such directory. Did you mean 'study'?" in err


def test_a_file_and_a_directory_without_runs_are_reported_together(
    study: Path, command: Compare
) -> None:
    (study.parent / "empty" / "inside").mkdir(parents=True)
    code, _, err = command(study / "fixed" / "0" / "config.yaml", study.parent / "empty")
    assert code == 2
    assert "config.yaml: is a file. Give the directory of its run." in err
    assert "empty: no run at any level" in err and "In it: inside." in err


def test_no_finished_run(tmp_path: Path, command: Compare) -> None:
    make(tmp_path / "killed", status="running")
    code, _, err = command(tmp_path)
    assert code == 2
    assert f"{tmp_path}: no finished run.\nexcluded: 1 killed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "model.kind=fix"], "Did you mean 'model.kind=fixed'"),
        (["--metrics", "test/acuracy"], "--metrics test/acuracy: no run has this metric."),
        (["--metrics", "nothing/*"], "Metrics: continual/forgetting, test/accuracy."),
        (["--sort", "test/acuracy"], "Did you mean 'test/accuracy'"),
        (["--sort", "test/accuracy:up"], "allowed after the colon: max, min. Got 'up'"),
        (["--group-by", "model.kinds"], "Did you mean 'model.kind'"),
        (["--baseline", "model.kind=fixed", "--test", "x"], "--test x: no run has this metric"),
        (["--test", "test/accuracy"], "--test: tests need a baseline; add --baseline."),
        (["--correction", "holm"], "--correction: tests need a baseline; add --baseline."),
        (["--pareto", "a,b"], "--pareto: only the HTML page has this plot; add --format html."),
        (["--output", "x.pdf"], "unknown suffix. Allowed: .txt, .csv, .md, .tex, .html"),
        (["--output", "/proc/x.csv"], "--output /proc/x.csv: cannot be written"),
        (["--metrics", "a,,b"], "not a list of names"),
        (["--correction", "hlm"], "invalid choice: 'hlm'"),
    ],
)
def test_invalid_options(study: Path, command: Compare, arguments: list[str], message: str) -> None:
    code, out, err = command(study, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_multirun_whose_baseline_failed_still_has_its_table(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end_of_multirun(study, "model.kind=full")
    out = capsys.readouterr().out
    assert "95.00 ± 12.42" in out and "--baseline model.kind=full: no configuration" in out


def test_a_multirun_ends_with_the_configured_tests(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end_of_multirun(study, "model.kind=fixed")
    assert "against model.kind=fixed" in capsys.readouterr().out
    end_of_multirun(study, None)
    assert "against" not in capsys.readouterr().out


def test_a_multirun_without_a_finished_run_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end_of_multirun(tmp_path, None)
    assert "no run at any level" in capsys.readouterr().out


def test_a_multirun_of_checks_has_no_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end_of_multirun(tmp_path, None, "check")
    assert capsys.readouterr().out == ""


# -- speed ----------------------------------------------------------------------------------------


def test_two_hundred_runs_take_less_than_five_seconds(tmp_path: Path) -> None:
    """In a separate process and in processor time, because tests run in parallel."""
    two_hundred(tmp_path)
    before = os.times()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "neuro",
            "compare",
            str(tmp_path),
            "--baseline",
            "optimizer.lr=0",
            "--format",
            "csv",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])  # user and system time of children
    assert len(done.stdout.splitlines()) == 41
    assert seconds < 5
