"""Plots of states, weights and parameters show the data they were given."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.analysis.plots import states as plots
from tests.analysis.plots.test_training import labels


def test_histograms_show_current_over_initial_values():
    rng = np.random.default_rng(0)
    spreads = {
        "J.0_to_1": plots.Distributions(rng.normal(0, 2, 1000), rng.normal(0, 1, 500)),
        "layer1/gamma": plots.Distributions(np.array([0.1, 0.2, 0.4, 0.4]), np.full(4, 0.3)),
    }
    figure = plots.histograms(spreads, "Weights", "weight")
    assert [ax.get_xlabel() for ax in figure.axes] == ["weight", "weight"]
    wide, few = figure.axes[:2]
    assert wide.get_title(loc="left") == "J.0_to_1" and wide.get_ylabel() == "fraction of 1 000"
    now, start = (patch.get_data() for patch in wide.patches)
    assert now.values.sum() == pytest.approx(1) and start.values.sum() == pytest.approx(1)
    assert start.values.max() > 1.5 * now.values.max()
    assert len(few.patches) == 1 and few.lines[0].get_xdata()[0] == 0.3  # all of one value
    counted = few.patches[0].get_data()
    assert counted.values[-1] == 0.5 and counted.edges[0] < 0.1 < 0.4 < counted.edges[-1]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["now", "start"]


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_values_that_are_all_the_same_can_be_drawn(value):
    figure = plots.histograms({"x": plots.Distributions(np.full(3, value), np.full(3, value))})
    assert figure.axes[0].patches[0].get_data().values.max() == 1


def test_more_than_a_row_of_histograms():
    spread = plots.Distributions(np.arange(4.0), np.arange(4.0))
    figure = plots.histograms({str(i): spread for i in range(4)})
    assert [ax.get_visible() for ax in figure.axes] == [True] * 4 + [False] * 2


def test_trajectories_are_drawn_by_layer_and_sample():
    first = {"layer1": np.random.default_rng(0).random((7, 30)), "layer2": np.ones((7, 3))}
    second = {"layer1": np.zeros((7, 30)), "layer2": np.zeros((7, 3))}
    figure = plots.trajectories([first, second], ["sample 0", "sample 1"], nodes=5)
    axes = np.array(figure.axes).reshape(2, 2)
    assert [len(ax.lines) for ax in axes.flat] == [5, 5, 3, 3]
    chosen = axes[0, 0].lines[1]
    assert chosen.get_xdata().tolist() == list(range(1, 8))
    assert np.array_equal(chosen.get_ydata(), first["layer1"][:, 7])  # of 0, 7, 14, 22, 29
    assert axes[0, 1].get_title(loc="left") == "sample 1"
    assert axes[0, 0].get_ylabel() == "layer1\n5 of 30 nodes"
    assert labels(axes[1, 0]) == ("step", "layer2\n3 nodes")
    told = [t.get_text() for t in axes[1, 1].get_legend().get_texts()]
    assert told == ["0", "1", "2"] and axes[0, 1].get_legend() is None


def test_outputs_can_be_distinguished():
    figure = plots.trajectories([{"out": np.zeros((4, 10))}], ["a"], nodes=12)
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 10


def test_spikes_are_drawn_as_steps():
    states = {"spikes": np.eye(3), "v": np.eye(3) / 2}
    spikes, v = plots.trajectories([states], ["a"]).axes
    assert spikes.lines[0].get_drawstyle() == "steps-mid"
    assert v.lines[0].get_drawstyle() == "default"
