"""What happened in a layer during one inference: exact counts, as means over inferences."""

from __future__ import annotations

from dataclasses import dataclass

READOUT = "readout"  # name of the last layer, which accumulates and does not spike


@dataclass(frozen=True)
class LayerCounts:
    """One layer's events per inference, zero or not by value and not by time.

    inputs: non-zero values that its sources sent to it, each source once.
    spikes: of its neurons.
    synaptic_macs: non-zero weights times non-zero inputs that are graded.
    synaptic_acs: the same for inputs that are spikes.
    dense_synaptic_operations: weights times inputs, zero or not; padding does not count.
    neuron_updates: compartments whose membrane a step changed, all of them at the first step.
    neurons: in the layer; a dual-timescale neuron is one.
    steps: of an inference.
    """

    name: str
    inputs: float
    spikes: float
    synaptic_macs: float
    synaptic_acs: float
    dense_synaptic_operations: float
    neuron_updates: float
    neurons: int
    steps: float
