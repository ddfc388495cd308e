"""Files and plots of a study's results, from handwritten trials."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from neuro.config import commands
from neuro.search import plots as search_plots
from neuro.search.results import StudyResult, TrialRow, write_results


def trial(number: int, state: str, *values: float, **params: object) -> TrialRow:
    reason = "it burst" if state == "fail" else None
    return TrialRow(
        number, state, values, {k.replace("__", "."): v for k, v in params.items()}, 1.5, reason
    )


TRIALS = [
    trial(0, "complete", 0.5, optimizer__lr=0.001, model__gate="fixed"),
    trial(1, "complete", 0.9, optimizer__lr=0.1, model__gate="variance"),
    trial(2, "pruned", 0.2, optimizer__lr=1.0, model__gate="fixed"),
    trial(3, "fail", optimizer__lr=10.0, model__gate="fixed"),
]
RESULT = StudyResult(
    "rates",
    ("test/accuracy",),
    ("maximize",),
    TRIALS,
    [1],
    {"optimizer.lr": 0.7, "model.gate": 0.3},
)


def test_tables_and_plots(tmp_path: Path) -> None:
    write_results(RESULT, tmp_path, {1: commands.launch(["model=lif", "tags=[a,b]"])})
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete", "complete", "pruned", "fail"]
    assert [row["test/accuracy"] for row in rows] == ["0.5", "0.9", "0.2", ""]
    assert rows[3]["reason"] == "it burst"
    (best,) = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["params"] == {"optimizer.lr": 0.1, "model.gate": "variance"}
    assert best["command"] == "python launch.py model=lif 'tags=[a,b]'"
    pictures = {path.name for path in (tmp_path / "plots").iterdir()}
    assert pictures == {"history.png", "slices.png", "importance.png"}


def test_a_search_without_a_complete_trial_has_no_plots(tmp_path: Path) -> None:
    write_results(replace(RESULT, trials=TRIALS[2:], best=[], importance={}), tmp_path, {})
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == []
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("direction, best", [("maximize", [0.5, 0.9]), ("minimize", [0.5, 0.5])])
def test_the_history_keeps_the_best(direction: str, best: list[float]) -> None:
    (axes,) = search_plots.history(TRIALS, "test/accuracy", direction).axes
    line = next(line for line in axes.lines if line.get_label() == "best so far")
    assert list(line.get_ydata()) == best
    labels = [text.get_text() for text in axes.get_figure().legends[0].get_texts()]
    assert labels == ["complete", "best so far", "pruned: value so far", "failed"]


def test_failed_trials_have_one_entry_in_the_legend() -> None:
    failed = [*TRIALS, trial(4, "fail", optimizer__lr=3.0, model__gate="fixed")]
    figure = search_plots.history(failed, "test/accuracy", "maximize")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels.count("failed") == 1
    lines = [line.get_xdata()[0] for line in figure.axes[0].lines[3:]]
    assert lines == [3, 4]


def test_slices_have_a_panel_for_each_parameter_and_objective() -> None:
    pairs = [replace(t, values=(t.values[0], 2.0)) for t in TRIALS[:2]]
    figure = search_plots.slices(pairs, ("a", "b"), {"optimizer.lr"})
    assert len(figure.axes) == 4
    assert [ax.get_xscale() for ax in figure.axes[:2]] == ["log", "linear"]
    assert search_plots.slices(pairs, ("a", "b")).axes[0].get_xscale() == "linear"


def test_the_front_is_drawn_in_order() -> None:
    points = [(0.9, 5.0), (0.5, 1.0), (0.6, 9.0)]
    trials = [trial(i, "complete", *values, x=i) for i, values in enumerate(points)]
    (axes,) = search_plots.pareto(trials, [0, 1], ("accuracy", "energy")).axes
    front = next(line for line in axes.lines if line.get_label() == "Pareto front")
    assert list(front.get_xdata()) == [0.5, 0.9]
    assert list(front.get_ydata()) == [1.0, 5.0]


def test_more_objectives_are_shown_in_pairs() -> None:
    points = [(0.9, 5.0, 1.0), (0.5, 1.0, 2.0), (0.4, 9.0, 3.0)]
    trials = [trial(i, "complete", *values, x=i) for i, values in enumerate(points)]
    figure = search_plots.pareto(trials, [0, 1], ("accuracy", "energy", "cores"))
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels == [("accuracy", "energy"), ("accuracy", "cores"), ("energy", "cores")]
    front = next(line for line in figure.axes[2].lines if line.get_label() == "Pareto front")
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(1.0, 2.0), (5.0, 1.0)]
