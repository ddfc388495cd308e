"""What a report on Loihi 2 shows: its arrays handed to the plots."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.core_map import CoreMap
from neuro.hardware.loihi2.floating import run_graph
from neuro.hardware.loihi2.integer import GAMMA_UNITY, IntegerLayer, IntegerLIF
from neuro.hardware.loihi2.trial import Trial
from neuro.models.graph import LIF, DualLIF

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: neurons of each layer whose membranes are drawn, and for how many steps
NEURONS = 3
STEPS = 60


def cores(core_map: CoreMap) -> Figure:
    """Which core holds what."""
    from neuro.analysis.plots import hardware as hardware_plots

    placed = [
        hardware_plots.PlacedCore(
            core.index, core.layer, core.neurons,
            core.neuron_utilisation, core.synapse_utilisation, core.memory_utilisation,
        )
        for core in core_map.cores
    ]  # fmt: skip
    return hardware_plots.core_map(placed, core_map.limits.cores_per_chip, "On the chip")


def accuracies(trials: Mapping[str, Trial]) -> Figure:
    """Accuracy by way of running and task."""
    from neuro.analysis.plots import hardware as hardware_plots

    names = {
        "model": "trained model",
        "rounded": "rounded parameters, float arithmetic",
        "engine": "integers, engine",
        "lava": "integers, Lava",
    }
    found = {
        label: {
            task: hardware_plots.Accuracy(trial.correct[way], trial.samples[way])
            for task, trial in trials.items()
            if way in trial.correct
        }
        for way, label in names.items()
    }
    return hardware_plots.accuracy_by_backend({name: row for name, row in found.items() if row})


def membranes(trial: Trial) -> Figure:
    """Membranes of some neurons for the task's first sample, in float and in integers.

    Of a dual-timescale neuron the compartment that weighs more is shown, the fast one under "or".
    """
    from neuro.analysis.plots import hardware as hardware_plots

    frames, dt_ms = trial.first
    frames = frames[:, :STEPS]
    quantised = trial.networks[dt_ms]
    graph, network = trial.networks.graph, quantised.network
    names = [layer.name for layer in network.layers]
    real = run_graph(graph, frames, dt_ms, record_spikes=True, membranes=names)
    spikes = {name: _rows(real.spikes[name]) for name in names}
    chosen = {name: _lively(spikes[name].mean(0)) for name in names}
    integer = engine.run(
        network, network.encode(frames.numpy()), record_spikes=True, membranes=chosen
    )
    layers = {}
    for layer in network.layers:
        name, neurons = layer.name, chosen[layer.name]
        node = graph.nodes[name]
        assert isinstance(node, (LIF, DualLIF))
        shown = _compartments(layer, neurons)
        pairs = list(zip(neurons, shown, strict=True))
        layers[name] = hardware_plots.MembraneTraces(
            neurons,
            np.stack([_rows(real.membranes[name][:, :, k])[:, n] for n, k in pairs], 1),
            np.stack([integer.membranes[name][k, :, 0, i] for i, k in enumerate(shown)], 1),
            spikes[name][:, neurons],
            _rows(integer.spikes[name])[:, neurons],
            node.threshold,
            float((layer.vth << 6) + 1),
        )
    return hardware_plots.membrane_traces(layers, dt_ms)


def _compartments(layer: IntegerLayer, neurons: list[int]) -> list[int]:
    """Which compartment of each neuron is shown."""
    if isinstance(layer, IntegerLIF) or layer.gamma is None:
        return [0] * len(neurons)
    places = prod(layer.shape) // len(layer.gamma)
    return [int(layer.gamma[n // places] < GAMMA_UNITY // 2) for n in neurons]


def _rows(trace: Any) -> np.ndarray:
    """`[T, 1, ...]` as `[T, N]`."""
    array = np.asarray(trace)
    return array.reshape(len(array), -1)


def _lively(rates: np.ndarray) -> list[int]:
    """Neurons whose rates are nearest to the median of those that fire at all."""
    firing = rates[rates > 0]
    middle = float(np.median(firing)) if len(firing) else 0.0
    distance = np.where(rates > 0, np.abs(rates - middle), np.inf)
    nearest: list[int] = np.argsort(distance, kind="stable")[:NEURONS].tolist()
    return sorted(nearest)
