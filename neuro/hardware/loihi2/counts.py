"""What happened in a layer: exact counts, as sums over inferences and as means of them."""

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


@dataclass(frozen=True)
class LayerTotals:
    """What `LayerCounts` counts, as exact sums over `inferences`; `steps` are summed as well.

    An accumulator of the readout is updated where its sum is not zero, and at the first step.
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
        """Of the same layer in other inferences."""
        assert (self.name, self.neurons) == (other.name, other.neurons)
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return LayerTotals(self.name, self.neurons, **sums)

    def per_inference(self) -> LayerCounts:
        means = {name: getattr(self, name) / self.inferences for name in _SUMMED[1:]}
        return LayerCounts(name=self.name, neurons=self.neurons, **means)


_SUMMED = tuple(f for f in LayerTotals.__dataclass_fields__ if f not in ("name", "neurons"))
