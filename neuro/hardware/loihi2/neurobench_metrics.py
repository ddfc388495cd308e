"""NeuroBench's metrics (Yik et al. 2025; package neurobench 2.3) of an integer network.

Names and definitions are the package's. The values are computed from the weights and counts of the
integer network instead of hooks in a torch model, and are not rounded. Where the definitions leave
a choice:

- Footprint counts the data loaded onto the chip: one byte per weight (the kernel of a convolution
  once), and every bias, gamma, decay and threshold in whole bytes of its register.
- Activations are the spikes of the layers; the readout has none. As in the package, biases are not
  synaptic operations and padding is not an input.
- A dual-timescale neuron has two membranes and two sets of synapses, which count separately.
- Recurrent synapses are connections as others; the first step has no input from them.
- NeuronOperations are updates of membranes times the package's operations per update of the neuron
  that has the same equations: `Leaky`, or `Synaptic` if the current has a memory. Each compartment
  of a dual-timescale neuron is a `Leaky`; recurrence adds none. An update is effective if it
  changes the membrane.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TypedDict

import numpy as np

from neuro.hardware.loihi2.core_demand import BIAS_BYTES, DECAY_BYTES, GAMMA_BYTES
from neuro.hardware.loihi2.counts import READOUT, LayerCounts
from neuro.hardware.loihi2.integer import (
    MEMORYLESS,
    THRESHOLD_BITS,
    IntegerDualLIF,
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
)
from neuro.ops.lif import Reset

THRESHOLD_BYTES = ceil(THRESHOLD_BITS / 8)


class SynapticOperations(TypedDict):
    """Operations per inference; effective ones have a non-zero weight and a non-zero input."""

    Effective_MACs: float
    Effective_ACs: float
    Dense: float


#: operations of neurons per inference: of updates that change the membrane, and of all
NeuronOperations = TypedDict(
    "NeuronOperations", {"Effective Neuron Ops": float, "Neuron Dense Ops": float}
)


class NeuroBenchMetrics(TypedDict):
    """Metrics by NeuroBench's names: bytes, sparsities as fractions, and counts per inference.

    MembraneUpdates counts membrane potentials that a step changed; all at the first step.
    """

    Footprint: int
    ConnectionSparsity: float
    ActivationSparsity: float
    ActivationSparsityByLayer: dict[str, float]
    SynapticOperations: SynapticOperations
    MembraneUpdates: float
    NeuronOperations: NeuronOperations


#: operations per update of a neuron's membrane, by kind and reset (`neuron_ops_reset_operations`)
OPERATIONS: dict[str, dict[Reset, int]] = {
    "Leaky": {"subtract": 4, "zero": 4},
    "Synaptic": {"subtract": 6, "zero": 8},
}


def neurobench_metrics(network: IntegerNetwork, counts: Sequence[LayerCounts]) -> NeuroBenchMetrics:
    """Compute all metrics from a network and its mean counts per inference, one for each layer."""
    spiking = [layer for layer in counts if layer.name != READOUT]
    activations = sum(layer.neurons * layer.steps for layer in spiking)
    synapses = [s for layer in network.layers for s in (*layer.synapses, *layer.recurrent_synapses)]
    synapses += network.readout.synapses
    weights = sum(s.weight.size for s in synapses)
    return {
        "Footprint": weights + sum(_register_bytes(layer) for layer in network.layers),
        "ConnectionSparsity": 1 - sum(np.count_nonzero(s.weight) for s in synapses) / weights,
        "ActivationSparsity": 1 - sum(layer.spikes for layer in spiking) / activations,
        "ActivationSparsityByLayer": {
            layer.name: 1 - layer.spikes / (layer.neurons * layer.steps) for layer in spiking
        },
        "SynapticOperations": {
            "Effective_MACs": sum(layer.synaptic_macs for layer in counts),
            "Effective_ACs": sum(layer.synaptic_acs for layer in counts),
            "Dense": sum(layer.dense_synaptic_operations for layer in counts),
        },
        "MembraneUpdates": sum(layer.neuron_updates for layer in spiking),
        "NeuronOperations": {
            "Effective Neuron Ops": sum(
                count.neuron_updates * _operations(layer)
                for count, layer in zip(spiking, network.layers, strict=True)
            ),
            "Neuron Dense Ops": sum(
                count.neurons * len(layer.synapses) * count.steps * _operations(layer)
                for count, layer in zip(spiking, network.layers, strict=True)
            ),
        },
    }


def _operations(layer: IntegerLayer) -> int:
    """Operations per update of a membrane of this layer."""
    with_current = isinstance(layer, IntegerLIF) and np.min(layer.du) < MEMORYLESS
    return OPERATIONS["Synaptic" if with_current else "Leaky"][layer.reset]


def _register_bytes(layer: IntegerLayer) -> int:
    """Bytes of the decay, threshold, bias and gamma registers of a layer."""
    if isinstance(layer, IntegerDualLIF):
        gammas = 0 if layer.gamma is None else layer.gamma.size
        return 2 * DECAY_BYTES + THRESHOLD_BYTES + gammas * GAMMA_BYTES
    biases = 0 if layer.bias_mantissa is None else layer.bias_mantissa.size
    decays = sum(np.size(decay) for decay in (layer.du, layer.dv))
    return decays * DECAY_BYTES + THRESHOLD_BYTES + biases * BIAS_BYTES
