"""Exact counts of events in a layer: sums over inferences, and means per inference."""

from __future__ import annotations

from dataclasses import dataclass

READOUT = "readout"  # name of the last layer, which accumulates and does not spike


@dataclass(frozen=True)
class LayerCounts:
    """Mean counts of a layer per inference.

    inputs: non-zero values received from other layers; each source counts once, also with several
        synapses.
    spikes: emitted by its neurons.
    synaptic_macs: products of non-zero weights and non-zero graded inputs.
    synaptic_acs: non-zero weights at input spikes, also at those from the layer itself, without its
        spikes of the last step, which arrive after the end.
    dense_synaptic_operations: weights times inputs, zeros included, padding excluded.
    neuron_updates: compartments whose membrane potential a step changed; all at the first step.
    neurons: in the layer; a dual-timescale neuron counts once.
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


@dataclass(frozen=True)
class LayerTotals:
    """The counts of `LayerCounts` as exact sums over `inferences`, `steps` included.

    An accumulator of the readout counts as updated if its sum is not zero, and at the first step.
    """

    name: str
    neurons: int
    inferences: int
    steps: int
    inputs: int
    spikes: int
    synaptic_macs: int
    synaptic_acs: int
    dense_synaptic_operations: int
    neuron_updates: int

    def __add__(self, other: LayerTotals) -> LayerTotals:
        """Sum with the counts of the same layer in other inferences."""
        assert (self.name, self.neurons) == (other.name, other.neurons)
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return LayerTotals(self.name, self.neurons, **sums)

    def per_inference(self) -> LayerCounts:
        """Mean counts per inference."""
        means = {name: getattr(self, name) / self.inferences for name in _SUMMED[1:]}
        return LayerCounts(name=self.name, neurons=self.neurons, **means)


_SUMMED = tuple(f for f in LayerTotals.__dataclass_fields__ if f not in ("name", "neurons"))
