"""Plots of gates and spikes show the data they were given, with labels and units."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.analysis.plots import spiking as plots
from tests.analysis.plots.test_training import labels, ticks


def test_gate_statistics_show_each_layer():
    steps = np.arange(5)
    trace = plots.GateTrace(
        steps,
        np.full(5, 0.3),
        np.full(5, 0.2),
        np.full(5, 0.1),
        np.full(5, 0.01),
        np.array([0.1, 0.1, 0.9, 0.9]),
    )
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


def test_spike_raster_shows_spikes_at_their_times():
    spikes = np.zeros((20, 3))
    spikes[4, 1] = 1
    figure = plots.spike_raster({"conv1": spikes, "wide": np.ones((20, 600))}, dt_ms=0.5)
    raster, wide, rate = figure.axes
    assert raster.collections[0].get_offsets().tolist() == [[2.0, 1.0]]
    assert raster.get_title(loc="left") == "3 neurons, mean 33.3 Hz"
    assert wide.get_title(loc="left") == "600 neurons (256 shown), mean 2000.0 Hz"
    assert labels(rate) == ("time (ms)", "population\nrate (Hz)")
    assert rate.get_xlim() == (-0.25, 10)  # spikes of the first step are next to the axis


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
    assert drawn[-1] and drawn.sum() == 4  # the range includes the fastest neuron
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["silent (< 0.1 Hz)", "active", "saturated (> 900 Hz)"]
    stricter = plots.firing_rates({"a": rates}, dt_ms=1.0, silent_below_hz=30, saturated_above=0.99)
    widths = [c.patches[0].get_width() for c in stricter.axes[1].containers]
    assert widths == pytest.approx([0.6, 0.4, 0.0])
