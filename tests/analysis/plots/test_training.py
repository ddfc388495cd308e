"""Plots show the data they were given, with labels and units."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuro.analysis.plots import style
from neuro.analysis.plots import training as plots

ROOT = Path(__file__).parents[3]


def labels(ax) -> tuple[str, str]:
    return ax.get_xlabel(), ax.get_ylabel()


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def ticks(axis) -> list[str]:
    return [axis.get_major_formatter()(value, 0) for value in (0.0, 0.5, 1.0)]


def test_training_curves_have_a_panel_for_each_kind():
    steps = list(range(0, 600, 2))
    figure = plots.training_curves(
        {
            "train/lr": (steps, [1e-3] * 300),
            "train/loss": (steps, np.linspace(2, 0.1, 300)),
            "val/fast/accuracy": ([100, 200], [0.91, 0.97]),
            "val/accuracy": ([100, 200], [0.9, float("nan")]),
        },
        phases=[("task1", 0), ("task2", 300)],
        title="a run",
    )
    loss, accuracy, rate = figure.axes
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert rate.get_xlabel() == "optimizer step"
    assert figure.get_suptitle() == "a run"
    *curves, boundary = loss.lines
    raw, smooth = curves[:2]
    assert raw.get_ydata()[0] == 2 and len(raw.get_ydata()) == len(smooth.get_ydata()) == 151
    assert boundary.get_xdata()[0] == 300
    assert texts(loss) == ["task1", "task2"]
    assert accuracy.lines[0].get_ydata().tolist() == [0.91, 0.97]
    assert [t.get_text() for t in accuracy.get_legend().get_texts()] == ["val/fast", "val"]
    assert ticks(accuracy.yaxis) == ["0 %", "50 %", "100 %"]
    assert accuracy.get_ylim() == (pytest.approx(0.8), 1.01)


def test_curves_end_with_their_phase():
    """The next phase may have another task; the last validation belongs to its own phase."""
    figure = plots.training_curves(
        {"val/accuracy": ([2, 4, 6, 8], [0.5, 0.9, 0.2, 0.8])}, [("a (fast)", 0), ("b (slow)", 4)]
    )
    (ax,) = figure.axes
    first, second, _ = ax.lines
    assert first.get_xdata().tolist() == [2, 4] and second.get_xdata().tolist() == [6, 8]
    assert first.get_color() == second.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["val"]


def test_a_training_loss_of_another_scale_has_its_own_panel():
    losses = {"train/loss": ([1, 2], [90.0, 60.0]), "val/loss": ([1, 2], [0.5, 0.4])}
    figure = plots.training_curves(losses)
    assert [ax.get_ylabel() for ax in figure.axes] == ["training loss", "validation loss"]
    assert figure.axes[1].get_ylim()[1] < 1
    losses["train/loss"] = ([1, 2], [1.2, 0.9])
    (ax,) = plots.training_curves(losses).axes
    assert ax.get_ylabel() == "loss" and len(ax.lines) == 2


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Weights", "Weights"),
        ("optimizer.lr=0.01, phase=task1", "optimizer.lr=0.01,\nphase=task1"),
        ("val/fast/accuracy_of_all", "val/fast/accuracy_\nof_all"),
        ("a" * 25, "a" * 20 + "\n" + "a" * 5),
        ("", ""),
    ],
)
def test_long_names_are_wrapped(text, expected):
    assert style.wrapped(text, 20) == expected


@pytest.mark.filterwarnings("error", "ignore::PendingDeprecationWarning")
def test_long_names_stay_inside_the_figure():
    name = ", ".join(f"model.neuron.option_{i}=value_{i}" for i in range(5))
    figure = plots.accuracy_matrix([[1.0]], ["fast"], title=name)
    figure.canvas.draw()
    drawn = [*figure.axes[0].get_yticklabels(), figure._suptitle]
    for box in (text.get_window_extent() for text in drawn):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_every_fraction_is_shown_in_percent():
    series = {"val/top_5": ([1, 2], [0.5, 0.9]), "val/bwt": ([1, 2], [-0.3, 0.1])}
    transfer, top_5 = plots.training_curves(series).axes
    assert ticks(top_5.yaxis) == ticks(transfer.yaxis) == ["0 %", "50 %", "100 %"]
    assert transfer.get_ylim()[0] == -0.3
    assert texts(plots.accuracy_matrix([[0.5]], ["a"], score="top_5").axes[0]) == ["50.0 %"]


def test_legends_lie_outside_the_data():
    figure = plots.training_curves({"train/loss": ([1, 2], [1.0, 0.5]), "val/loss": ([2], [0.6])})
    figure.canvas.draw()
    (ax,) = figure.axes
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_without_series_the_plot_is_empty():
    assert len(plots.training_curves({}).axes) == 1


def test_accuracy_matrix_is_annotated():
    figure = plots.accuracy_matrix(
        [[0.978, np.nan], [0.962, 0.971]], ["fast", "slow"], ["task1", "task2"]
    )
    ax, bar = figure.axes
    assert texts(ax) == ["97.8 %", "-", "96.2 %", "97.1 %"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["fast", "slow"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["after task1", "after task2"]
    assert ax.yaxis_inverted()  # the first phase on top
    assert ax.get_xlabel() == "task tested" and bar.get_ylabel() == "test accuracy"


def test_a_matrix_of_errors_has_their_unit_and_range():
    figure = plots.accuracy_matrix([[0.12, 3.0], [1.5, 0.05]], ["a", "b"], score="mae")
    ax, bar = figure.axes
    assert texts(ax) == ["0.12", "3", "1.5", "0.05"]
    assert ax.collections[0].get_clim() == (0, 3.0)
    assert bar.get_ylabel() == "test mean absolute error"
    assert texts(figure)[0] == "Mean absolute error on each task after\neach phase"


def test_schedule_draws_the_rate():
    (ax,) = plots.schedule([0, 1, 2], [0.0, 2e-4, 1e-4], [("task1", 0)]).axes
    assert ax.lines[0].get_ydata().tolist() == [0.0, 2e-4, 1e-4]
    assert labels(ax) == ("optimizer step", "learning rate")
    assert ax.yaxis.get_major_formatter()(2e-4, 0) == "0.0002"


def test_inputs_and_global_settings_are_not_changed():
    import matplotlib

    before = dict(matplotlib.rcParams)
    values = np.array([[0.5, np.nan]])
    copy = values.copy()
    plots.accuracy_matrix(values, ["a", "b"], ["p"])
    assert np.array_equal(values, copy, equal_nan=True)
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys\nfrom neuro.analysis.plots import style, training\n"
        "style.save(training.schedule([0, 1], [0, 1]), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lr.png")], check=True, cwd=ROOT)


def test_save_is_atomic(tmp_path, monkeypatch):
    figure = plots.schedule([0, 1], [0.1, 0.2])
    path = style.save(figure, tmp_path / "plots" / "lr.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        style.save(figure, path)
    assert path.read_bytes() == before
    assert (
        style.save(plots.schedule([0], [0.1]), tmp_path / "lr.svg").read_text().startswith("<?xml")
    )
    assert {p.name for p in tmp_path.iterdir()} == {"plots", "lr.svg"}
