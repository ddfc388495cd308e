"""Plots of a network on a chip show the data that they were given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from neuro.analysis.plots import backends
from neuro.analysis.plots import hardware as plots
from neuro.analysis.plots.style import PALETTE, save


def placed(place: int, layer: str, neurons=0.5, synapses=0.25, memory=0.125) -> plots.PlacedCore:
    return plots.PlacedCore(place, layer, 100, neurons, synapses, memory)


def filled(ax, colour: str) -> list[tuple[float, float, float]]:
    """Opaque rectangles of a colour: column, row and height as a fraction of a cell."""
    return [
        (
            round(p.get_x() - 0.06, 6),
            round(p.get_y() + p.get_height() - 0.94, 6),
            round(p.get_height() / 0.88, 6),
        )
        for p in ax.patches
        if to_hex(p.get_facecolor()) == colour.lower() and p.get_alpha() is None
    ]


def test_a_core_is_drawn_at_its_position_filled_by_its_tightest_limit():
    figure = plots.core_map([placed(0, "conv1"), placed(17, "dense", 0.1, 0.9)])
    grid, _ = figure.axes
    assert filled(grid, PALETTE[0]) == [(0, 0, 0.5)]
    assert filled(grid, PALETTE[1]) == [(1, 1, 0.9)]
    assert grid.get_title(loc="left") == "2 of 128 cores, filled to their tightest limit"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["conv1: 1 core", "dense: 1 core"]


def test_the_three_uses_of_a_core_are_bars():
    figure = plots.core_map([placed(0, "conv1"), placed(1, "dense", 0.1, 0.9, 0.4)])
    _, use = figure.axes
    assert [t.get_text() for t in use.get_yticklabels()] == ["conv1 (core 0)", "dense (core 1)"]
    assert [bar.get_width() for bar in use.patches] == [0.5, 0.25, 0.125, 0.1, 0.9, 0.4]
    assert [t.get_text() for t in use.get_legend().get_texts()] == [
        "compartments",
        "synapses",
        "memory",
    ]
    assert use.get_xlim() == (0, 1)


def test_many_cores_are_summed_up_by_layer():
    cores = [placed(i, "conv1", neurons=i % 2) for i in range(40)] + [placed(40, "dense")]
    _, use = plots.core_map(cores).axes
    labels = [text.get_text() for text in use.get_yticklabels()]
    assert labels == ["conv1 (mean of 40 cores)", "dense (1 core)"]
    assert use.patches[0].get_width() == 0.5


def test_every_chip_has_a_grid():
    figure = plots.core_map([placed(0, "a"), placed(5, "b")], cores_per_chip=4)
    grid, _ = figure.axes
    assert [text.get_text() for text in grid.texts] == ["chip 1", "chip 2"]
    assert filled(grid, PALETTE[1]) == [(1, 2, 0.5)]
    assert grid.get_title(loc="left").startswith("2 of 8 cores")


def traces(steps: int, neurons: list[int], threshold=0.5) -> plots.MembraneTraces:
    v = np.linspace(0, 2 * threshold, steps)[:, None] * np.ones(len(neurons))
    spikes, integer_spikes = np.zeros(v.shape), np.zeros(v.shape)
    spikes[4], integer_spikes[6] = 1, 1
    scaled = np.rint(v / threshold * 6400)
    return plots.MembraneTraces(neurons, v, scaled, spikes, integer_spikes, threshold, 6400)


def test_membranes_are_drawn_over_their_thresholds():
    figure = plots.membrane_traces({"conv1": traces(11, [3, 17]), "dense": traces(11, [8])}, 2.0)
    first, second, third, empty = figure.axes
    threshold, real, integer, fired, integer_fired = first.lines
    assert threshold.get_ydata()[0] == 1
    assert real.get_ydata() == pytest.approx(np.linspace(0, 2, 11))
    assert integer.get_ydata() == pytest.approx(np.linspace(0, 2, 11), abs=1e-3)
    assert real.get_xdata()[-1] == 20.0
    assert fired.get_xdata().tolist() == [8.0] and integer_fired.get_xdata().tolist() == [12.0]
    assert fired.get_ydata()[0] > integer_fired.get_ydata()[0] > 2  # both above the traces
    assert [ax.get_title(loc="left") for ax in (first, second, third)] == [
        "neuron 3",
        "neuron 17",
        "neuron 8",
    ]
    assert first.get_ylabel() == "conv1\nv / threshold" and third.get_xlabel() == "time (ms)"
    assert not empty.axison
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["float", "integer", "threshold", "spike"]


def test_accuracy_of_each_backend_with_its_interval():
    accuracy = {
        "float": {"fast": backends.Accuracy(180, 180), "slow": backends.Accuracy(90, 100)},
        "Lava": {"fast": backends.Accuracy(9, 10)},
    }
    figure = backends.accuracy_by_backend(accuracy)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["fast", "slow"]
    numbers = {text.get_text() for text in ax.texts}
    assert numbers == {"100.0 %  (n=180)", "90.0 %  (n=100)", "90.0 %  (n=10)"}
    whiskers = [container[2][0].get_segments()[0][:, 0] for container in ax.containers]
    # Wilson's interval of 90 out of 100
    assert whiskers[1] == pytest.approx([0.8256, 0.9448], abs=1e-4)
    assert whiskers[0][1] == pytest.approx(1)  # never above 100 %
    assert ax.get_xlim()[0] < whiskers[2][0]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["float", "Lava"]


def test_figures_are_saved_and_inputs_not_mutated(tmp_path):
    given = traces(11, [3])
    before = np.array(given.integer)
    path = save(plots.membrane_traces({"conv1": given}, 1.0), tmp_path / "membranes.png")
    assert path.stat().st_size > 1000
    assert (np.asarray(given.integer) == before).all()


def test_matplotlib_is_imported_at_the_first_plot():
    modules = "neuro.analysis.plots.hardware, neuro.analysis.plots.backends"
    code = f"import sys, {modules}; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
