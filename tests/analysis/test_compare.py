"""Runs side by side, and the commands that print them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuro.__main__ import main
from neuro.analysis.compare import group_runs, markdown, table
from neuro.analysis.runs import find_runs
from neuro.analysis.statistics import mean_ci
from tests.analysis.test_runs import make


def finished(path: Path, accuracy: float, *overrides: str, seed: int = 0) -> None:
    make(path, seed=seed, mode="train", overrides=[*overrides, f"seed={seed}", "tracking=none"])
    metrics = {"test/accuracy": accuracy, "continual/forgetting": 0.0}
    report = {"objective": accuracy, "metrics": metrics}
    (path / "report.json").write_text(json.dumps(report))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed, (lif, ltgate) in enumerate([(0.5, 0.9), (0.6, 0.95), (0.4, 1.0)]):
        finished(tmp_path / f"lif{seed}", lif, "experiment=lif", "study=s", seed=seed)
        finished(tmp_path / f"lt{seed}", ltgate, "experiment=ltgate", "study=s", seed=seed)
    return tmp_path


def test_runs_are_grouped_over_seeds_and_named_by_what_differs(study: Path) -> None:
    best, worst = group_runs(find_runs(study))
    assert (best.label, worst.label) == ("ltgate", "lif")
    assert [len(group.runs) for group in (best, worst)] == [3, 3]
    interval = worst.interval("test/accuracy")
    expected = mean_ci([0.5, 0.6, 0.4])
    assert interval is not None
    assert interval.mean == pytest.approx(expected.mean)
    assert interval.half_width == pytest.approx(expected.half_width)
    assert worst.interval("test/other") is None


def test_the_table_shows_percent_and_leaves_out_what_no_run_has(study: Path) -> None:
    headings, rows = table(group_runs(find_runs(study)))
    assert headings == ["configuration", "runs", "accuracy", "forgetting"]
    assert rows[0] == ["ltgate", "3", "95.00 ± 12.42 %", "0.00 ± 0.00 %"]
    lines = markdown(headings, rows).splitlines()
    assert lines[0] == "| configuration | runs | accuracy | forgetting |"
    assert lines[1] == "| --- | ---: | ---: | ---: |"
    assert len(lines) == 4


def test_compare_prints_and_tells_what_it_left_out(study: Path, capsys) -> None:
    make(study / "killed", status="running", overrides=["experiment=lif"])
    assert main(["compare", str(study)]) == 0
    out = capsys.readouterr().out
    assert "50.00 ± 24.84 %" in out
    assert "left out: 1 without a report" in out
    assert main(["compare", str(study), "--markdown"]) == 0
    assert "| ltgate | 3 |" in capsys.readouterr().out


def test_compare_needs_a_finished_run(tmp_path: Path, capsys) -> None:
    make(tmp_path / "killed", status="running")
    assert main(["compare", str(tmp_path)]) == 2
    assert "no finished run in there (1 unfinished)" in capsys.readouterr().err


def test_runs_are_listed_with_mode_and_status(study: Path, capsys) -> None:
    make(study / "killed", status="running", mode="evaluate")
    assert main(["runs", str(study)]) == 0
    out = capsys.readouterr().out
    assert "0.9500" in out
    assert "running" in out
    assert "evaluate" in out
    assert main(["runs", str(study / "lif0" / "nothing")]) == 2
