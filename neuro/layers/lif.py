"""Leaky integrate-and-fire neurons with one time constant; the equations are in `ops/lif.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from neuro.config.types import Positive
from neuro.layers.layout import to_maps, to_rows
from neuro.layers.spiking import LayerOutput, Milliseconds, SpikingLayer, mean_rate, select_traces
from neuro.layers.synapse import AnySynapse, Dense
from neuro.layers.two_variable import TwoVariableNeuron
from neuro.ops.events import Events
from neuro.ops.fixed_point import FixedPoint, decay_register
from neuro.ops.fixed_point_lif import fixed_point_lif
from neuro.ops.lif import Reset, lif
from neuro.ops.neurons import Dynamics
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate


@dataclass(frozen=True)
class LIFNeuron(TwoVariableNeuron):
    """One compartment with membrane time constant `tau_ms` and firing threshold `threshold`.

    Without recurrence these neurons have a kernel of their own, which is faster and has an integer
    form.
    """

    tau_ms: Milliseconds = 20.0
    threshold: Positive = 0.5
    reset: Reset = "subtract"
    surrogate: Surrogate = DEFAULT_SURROGATE

    def dynamics(self, values: Mapping[str, Tensor], dt_ms: float) -> Dynamics:
        return Dynamics.leaky(math.exp(-dt_ms / self.tau_ms))

    def layer(
        self,
        synapse: Callable[[], AnySynapse],
        shape: tuple[int, ...],
        fixed_point: FixedPoint | None,
        recurrent: Callable[[], Dense] | None = None,
    ) -> SpikingLayer:
        if recurrent is not None:
            return super().layer(synapse, shape, fixed_point, recurrent)
        return LIFLayer(synapse(), shape, self, fixed_point)


class LIFState(NamedTuple):
    """Membrane potential `[B, ...]` after the reset."""

    v: Tensor


class LIFLayer(SpikingLayer):
    """A synapse and LIF neurons: v[t] = exp(-dt/tau) v[t-1] + i[t], with a spike at v >= theta."""

    trace_names = ("inputs", "spikes", "rate", "membrane")

    def __init__(
        self,
        synapse: AnySynapse,
        shape: tuple[int, ...],
        neuron: LIFNeuron,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__(shape, neuron.threshold, fixed_point)
        self.neuron = neuron
        self.synapse = synapse

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        return {"input": self.synapse}

    def initial_state(self, batch_size: int) -> LIFState:
        return LIFState(self.threshold.new_zeros(batch_size, *self.shape))

    def forward(
        self,
        x_TB: Tensor,
        state: LIFState | None,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        v0 = None if state is None else to_rows(state.v, lead=1)
        if self.fixed_point is None:
            (current,) = self._currents(x_TB, events)
            spikes, v, membrane, rate = lif(
                current,
                v0,
                decay=math.exp(-dt_ms / self.neuron.tau_ms),
                threshold=self.threshold,
                reset=self.neuron.reset,
                surrogate=self.neuron.surrogate,
                record_membrane="membrane" in traces,
                record_rate="rate" in traces,
            )
        else:
            # This kernel always returns the membrane potential, which its backward pass needs.
            (sums,), unit, vth = self._sums(x_TB, events, self.fixed_point)
            spikes, v, membrane = fixed_point_lif(
                sums,
                v0,
                unit=unit,
                dv=decay_register(self.neuron.tau_ms, dt_ms),
                vth=vth,
                reset=self.neuron.reset,
                surrogate=self.neuron.surrogate,
            )
            rate = mean_rate(spikes, traces)
        spikes_TB = to_maps(spikes, self.shape)
        available = {"inputs": x_TB, "spikes": spikes_TB}
        if rate is not None:
            available["rate"] = to_maps(rate, self.shape)
        if membrane is not None:
            available["membrane"] = to_maps(membrane, self.shape)
        return LayerOutput(
            spikes_TB, LIFState(to_maps(v, self.shape)), select_traces(available, traces)
        )
