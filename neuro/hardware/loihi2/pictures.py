"""Figures of a report on Loihi 2: cores, accuracies and membrane potentials."""

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
from neuro.models.graph import NeuronNode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEURONS = 3  # neurons per layer whose membrane potentials are drawn
STEPS = 60  # steps that are drawn


def cores(core_map: CoreMap) -> Figure:
    """Draw the contents and utilisation of all cores."""
    from neuro.analysis.plots import hardware as hardware_plots

    placed = [
        hardware_plots.PlacedCore(
            core.index,
            core.layer,
            core.neurons,
            core.neuron_utilisation,
            core.synapse_utilisation,
            core.memory_utilisation,
        )
        for core in core_map.cores
    ]
    return hardware_plots.core_map(placed, core_map.limits.cores_per_chip, "On the chip")


def accuracies(trials: Mapping[str, Trial]) -> Figure:
    """Draw the accuracy of every backend and task."""
    from neuro.analysis.plots import backends

    names = {
        "model": "trained model",
        "rounded": "rounded parameters, float arithmetic",
        "engine": "integers, engine",
        "lava": "integers, Lava",
    }
    found = {
        label: {
            task: backends.Accuracy(trial.correct[way], trial.samples[way])
            for task, trial in trials.items()
            if way in trial.correct
        }
        for way, label in names.items()
    }
    return backends.accuracy_by_backend({name: row for name, row in found.items() if row})


def membranes(task: str, trial: Trial) -> Figure:
    """Draw membrane potentials of some neurons for the task's first sample, in float and integers.

    For dual-timescale neurons, the compartment with the larger weight is shown, the fast one under
    merge "or".
    """
    from neuro.analysis.plots import hardware as hardware_plots

    frames, dt_ms = trial.first
    frames = frames[:, :STEPS]
    quantized = trial.networks[dt_ms]
    graph, network = trial.networks.graph, quantized.network
    names = [layer.name for layer in network.layers]
    real = run_graph(graph, frames, dt_ms, record_spikes=True, membranes=names)
    spikes = {name: _rows(real.spikes[name]) for name in names}
    chosen = {name: _typical(spikes[name].mean(0)) for name in names}
    integer = engine.run(
        network, network.encode(frames.numpy()), record_spikes=True, membranes=chosen
    )
    layers = {}
    for layer in network.layers:
        name, neurons = layer.name, chosen[layer.name]
        node = graph.nodes[name]
        assert isinstance(node, NeuronNode)
        shown = _compartments(layer, neurons)
        pairs = list(zip(neurons, shown, strict=True))
        layers[name] = hardware_plots.MembraneTraces(
            neurons,
            np.stack([_rows(real.membranes[name][:, :, k])[:, n] for n, k in pairs], 1),
            np.stack([integer.membranes[name][k, :, 0, i] for i, k in enumerate(shown)], 1),
            spikes[name][:, neurons],
            _rows(integer.spikes[name])[:, neurons],
            node.threshold,
            float((layer.vth << 6) + 1),  # the smallest integer that fires
        )
    title = f"Membrane potentials in float and in integers (task '{task}', first test sample)"
    return hardware_plots.membrane_traces(layers, dt_ms, title)


def _compartments(layer: IntegerLayer, neurons: list[int]) -> list[int]:
    """Index of the compartment to show for each neuron."""
    if isinstance(layer, IntegerLIF) or layer.gamma is None:
        return [0] * len(neurons)
    places = prod(layer.shape) // len(layer.gamma)  # gamma has one value per channel
    return [int(layer.gamma[n // places] < GAMMA_UNITY // 2) for n in neurons]


def _rows(trace: Any) -> np.ndarray:
    """Flatten `[T, 1, ...]` to `[T, N]`."""
    array = np.asarray(trace)
    return array.reshape(len(array), -1)


def _typical(rates: np.ndarray) -> list[int]:
    """Neurons whose rates are nearest to the median of all neurons that fire."""
    firing = rates[rates > 0]
    middle = float(np.median(firing)) if len(firing) else 0.0
    distance = np.where(rates > 0, np.abs(rates - middle), np.inf)
    nearest: list[int] = np.argsort(distance, kind="stable")[:NEURONS].tolist()
    return sorted(nearest)
