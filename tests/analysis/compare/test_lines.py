"""Lines of a metric over a config key, or over the number in names of metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuro.__main__ import main
from neuro.analysis.compare.lines import Lines, logarithmic, over_key, over_names
from neuro.analysis.plots.comparison import lines_over
from neuro.errors import ConfigError
from tests.analysis.helpers import compared, finish
from tests.runs.test_record import make


def rates(root: Path) -> Path:
    """Two kinds at two rates, with another key that depends on the rate, two seeds each."""
    for kind, worse in (("variance", 0.0), ("fixed", 0.2)):
        for rate in (0.1, 0.02):
            for seed in (0, 1):
                accuracy = 0.5 + rate + 0.1 * seed - worse
                finish(
                    root / f"{kind}{rate}{seed}",
                    {"test/accuracy": accuracy, "test/far_10/x": 1.0, "test/far_200/x": accuracy},
                    f"model.kind={kind}",
                    f"optimizer.lr={rate}",
                    seed=seed,
                    config={
                        "model.kind": kind,
                        "optimizer.lr": rate,
                        "model.rate": rate,
                        "data.size": 9,
                    },
                )
    return root


def means(lines: Lines) -> dict[str, list[tuple[float, float]]]:
    return {k: [(p.x, round(p.y.mean, 6)) for p in points] for k, points in lines.items()}


def test_a_line_joins_configurations_that_differ_in_the_key_only(tmp_path: Path) -> None:
    lines = over_key(compared(rates(tmp_path)), "optimizer.lr", "test/accuracy")
    assert means(lines) == {
        "model.kind=variance": [(0.02, 0.57), (0.1, 0.65)],
        "model.kind=fixed": [(0.02, 0.37), (0.1, 0.45)],
    }
    assert all(p.y.half_width is not None for points in lines.values() for p in points)


def test_numbers_in_the_names_of_metrics(tmp_path: Path) -> None:
    lines = over_names(compared(rates(tmp_path)), "test/far_*/x")
    assert means(lines)["model.kind=fixed, optimizer.lr=0.02"] == [(10, 1.0), (200, 0.37)]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimizer.rl", "no such key. Did you mean 'optimizer.lr'"),
        ("data.size", "the configurations do not differ in this key."),
        ("model.kind", "is not a number"),
    ],
)
def test_invalid_axes(tmp_path: Path, key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        over_key(compared(rates(tmp_path)), key, "test/accuracy")


@pytest.mark.parametrize("pattern", ["test/*/*", "test/*curacy"])
def test_patterns_without_numbers(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="--x test/"):
        over_names(compared(rates(tmp_path)), pattern)


def test_the_axis_is_logarithmic_where_factors_are_more_even() -> None:
    assert logarithmic([10, 40, 160])
    assert not logarithmic([0, 1, 10]) and not logarithmic([1, 2, 3]) and not logarithmic([1, 9])


def test_the_figure_shows_means_and_intervals(tmp_path: Path) -> None:
    lines = over_key(compared(rates(tmp_path)), "optimizer.lr", "test/accuracy")
    (ax,) = lines_over(lines, "optimizer.lr", "test/accuracy", False).axes
    drawn = {c.get_label(): c.lines[0].get_xydata().round(6).tolist() for c in ax.containers}
    assert drawn == {k: [list(p) for p in v] for k, v in means(lines).items()}
    assert {c.has_yerr for c in ax.containers} == {True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.csv"], "draws a figure; give a file with one of"),
        ([], "draws a figure; give a file with one of"),
        (["--output", "x.png", "--baseline", "a"], "--baseline: is for tables"),
        (["--output", "x.png", "--metrics", "test/*"], "--metrics: got 3 metrics"),
        (["--output", "/proc/x.png"], "cannot be written"),
    ],
)
def test_wrong_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = ["compare", str(rates(tmp_path)), "--x", "optimizer.lr", *arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("x", ["optimizer.lr", "test/far_*/x"])
def test_the_command_writes_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], x: str
) -> None:
    output = tmp_path / "lines.png"
    runs = rates(tmp_path / "runs")
    other = {"model.kind": "other", "optimizer.lr": 0.3, "model.rate": 0.3}
    finish(runs / "other", {"test/loss": 1.0}, "model.kind=other", config=other)
    make(runs / "killed", seed=0, mode="train", overrides=[])
    assert main(["compare", str(runs), "--x", x, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "lines drawn" in printed
    assert re.search("not drawn, without .*model.kind=other", printed)
    assert "excluded: 1" in printed
    assert output.read_bytes().startswith(b"\x89PNG")
