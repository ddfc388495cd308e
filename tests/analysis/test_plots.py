"""Plots show the data they were given, with labels and units."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuro.analysis import plots

ROOT = Path(__file__).parents[2]


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
    raw, smooth, boundary = loss.lines
    assert raw.get_ydata()[0] == 2 and len(raw.get_ydata()) == len(smooth.get_ydata()) == 300
    assert boundary.get_xdata()[0] == 300
    assert texts(loss) == ["task1", "task2"]
    assert accuracy.lines[0].get_ydata().tolist() == [0.91, 0.97]
    assert [t.get_text() for t in accuracy.get_legend().get_texts()] == ["val/fast", "val"]
    assert ticks(accuracy.yaxis) == ["0 %", "50 %", "100 %"]
    assert accuracy.get_ylim() == (pytest.approx(0.8), 1.01)


def test_legends_lie_outside_the_data():
    figure = plots.training_curves({"train/loss": ([1, 2], [1.0, 0.5]), "val/loss": ([2], [0.6])})
    figure.canvas.draw()
    (ax,) = figure.axes
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_no_series_is_an_empty_plot():
    assert len(plots.training_curves({}).axes) == 1


def test_accuracy_matrix_is_annotated():
    figure = plots.accuracy_matrix([[0.978, np.nan], [0.962, 0.971]], ["fast", "slow"],
                                   ["task1", "task2"])  # fmt: skip
    ax, bar = figure.axes
    assert texts(ax) == ["97.8 %", "-", "96.2 %", "97.1 %"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["fast", "slow"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["after task1", "after task2"]
    assert ax.yaxis_inverted()  # the first phase on top
    assert ax.get_xlabel() == "task tested" and bar.get_ylabel() == "test accuracy"


def test_gate_statistics_show_each_layer():
    steps = np.arange(5)
    trace = plots.GateTrace(steps, np.full(5, 0.3), np.full(5, 0.2), np.full(5, 0.1),
                            np.full(5, 0.01), np.array([0.1, 0.1, 0.9, 0.9]))  # fmt: skip
    figure = plots.gate_statistics({"conv1": trace, "hidden": trace}, [("a", 0), ("b", 2)])
    mean, opened, variance, histogram = figure.axes
    assert len(mean.lines) == 3 and mean.lines[0].get_ydata().tolist() == [0.3] * 5
    assert opened.lines[0].get_ydata().tolist() == [0.2] * 5
    assert ticks(opened.yaxis)[1] == "50 %"
    fast, slow = variance.lines[:2]
    assert fast.get_ydata()[0] == 0.1 and slow.get_ydata()[0] == 0.01
    assert fast.get_linestyle() != slow.get_linestyle() and variance.get_yscale() == "log"
    assert len(histogram.patches) == 2 and histogram.get_xlabel() == "gamma (1 = fast)"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["conv1", "hidden"]


def test_spike_raster_puts_spikes_at_their_times():
    spikes = np.zeros((20, 3))
    spikes[4, 1] = 1
    figure = plots.spike_raster({"conv1": spikes, "wide": np.ones((20, 600))}, dt_ms=0.5)
    raster, wide, rate = figure.axes
    assert raster.collections[0].get_offsets().tolist() == [[2.0, 1.0]]
    assert raster.get_title(loc="left") == "3 neurons, mean 33.3 Hz"
    assert wide.get_title(loc="left") == "600 neurons (256 shown), mean 2000.0 Hz"
    assert labels(rate) == ("time (ms)", "population\nrate (Hz)") and rate.get_xlim() == (0, 10)


def test_firing_rates_count_silent_and_saturated_neurons():
    rates = np.array([0.0, 0.0, 20.0, 40.0, 950.0])
    figure = plots.firing_rates({"conv1": rates, "dead": np.zeros(4)}, dt_ms=1.0)
    spread, share = figure.axes
    assert spread.get_xlabel().startswith("rate of a neuron (Hz")
    silent, active, saturated = (container.patches[0] for container in share.containers)
    widths = [round(bar.get_width(), 6) for bar in (silent, active, saturated)]
    assert widths == [0.4, 0.4, 0.2]
    counted = spread.patches[0].get_data()
    drawn = np.abs(counted.values - counted.baseline) > 1e-9
    assert drawn[-1] and drawn.sum() == 4  # the fastest neuron is inside
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["silent (< 0.1 Hz)", "active", "saturated (> 900 Hz)"]
    stricter = plots.firing_rates({"a": rates}, dt_ms=1.0, silent_below_hz=30, saturated_above=0.99)
    widths = [c.patches[0].get_width() for c in stricter.axes[1].containers]
    assert widths == pytest.approx([0.6, 0.4, 0.0])


def test_comparison_bars_show_means_and_intervals():
    rows = [plots.Row("ltgate", 0.968, 0.961, 0.975, 10, True), plots.Row("lif", 0.497, n=1)]
    (ax,) = plots.comparison_bars(rows).axes
    assert [bar.get_width() for bar in ax.patches] == [0.968, 0.497]
    assert texts(ax) == ["96.8 ± 0.7 %  (n=10)", "49.7 %  (n=1)"]
    assert ax.get_xlabel() == "test accuracy (whiskers: 95 % CI of the mean)"
    assert ax.get_xlim()[0] == 0
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    (ax,) = plots.comparison_bars([plots.Row("a", -0.2), plots.Row("b", 3.0)], "loss", False).axes
    assert texts(ax) == ["-0.200", "3.000"] and ax.get_xlim()[0] < -0.2
    assert ax.get_xlabel() == "loss"


def test_schedule_draws_the_rate():
    (ax,) = plots.schedule([0, 1, 2], [0.0, 2e-4, 1e-4], [("task1", 0)]).axes
    assert ax.lines[0].get_ydata().tolist() == [0.0, 2e-4, 1e-4]
    assert labels(ax) == ("optimizer step", "learning rate")
    assert ax.yaxis.get_major_formatter()(2e-4, 0) == "0.0002"


def test_inputs_and_global_settings_stay_as_they_are():
    import matplotlib

    before = dict(matplotlib.rcParams)
    values = np.array([[0.5, np.nan]])
    copy = values.copy()
    plots.accuracy_matrix(values, ["a", "b"], ["p"])
    assert np.array_equal(values, copy, equal_nan=True)
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys\nfrom neuro.analysis import plots\n"
        "plots.save(plots.schedule([0, 1], [0, 1]), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lr.png")], check=True, cwd=ROOT)


def test_save_is_atomic(tmp_path, monkeypatch):
    figure = plots.schedule([0, 1], [0.1, 0.2])
    path = plots.save(figure, tmp_path / "plots" / "lr.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == before
    assert (
        plots.save(plots.schedule([0], [0.1]), tmp_path / "lr.svg").read_text().startswith("<?xml")
    )
    assert {p.name for p in tmp_path.iterdir()} == {"plots", "lr.svg"}
