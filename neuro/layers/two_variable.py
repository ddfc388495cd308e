"""Layers of the neurons in `ops/neurons.py`: one or two variables, feed-forward or recurrent.

A kind of neuron gives the ranges of its parameters and how they become coefficients of the
equations; everything else is common.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from neuro.config.types import Positive
from neuro.layers.bounded import Bounded
from neuro.layers.layout import spread, to_maps, to_rows
from neuro.layers.spiking import LayerOutput, Neuron, SpikingLayer, mean_rate, select_traces
from neuro.layers.synapse import AnySynapse, Dense, currents
from neuro.ops.events import Events
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.lif import Reset
from neuro.ops.neurons import Dynamics, NeuronState, neurons
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate

#: lowest and highest value of a parameter
Range = tuple[float, float]


@dataclass(frozen=True)
class TwoVariableNeuron(Neuron):
    """Base of kinds of neurons; subclasses have fields for their parameters."""

    threshold: Positive = 0.5
    reset: Reset = "subtract"
    surrogate: Surrogate = DEFAULT_SURROGATE

    #: currents are scaled by 1 - v_leak, so that v relaxes to them
    normalised: ClassVar[bool] = False

    def parameters(self, channels: int) -> dict[str, Bounded]:
        """Parameters that differ between neurons, by name."""
        return {}

    @abstractmethod
    def dynamics(self, values: Mapping[str, Tensor], dt_ms: float) -> Dynamics:
        """Coefficients for values `[N]` of these parameters."""

    def layer(
        self,
        synapse: Callable[[], AnySynapse],
        shape: tuple[int, ...],
        fixed_point: FixedPoint | None,
        recurrent: Callable[[], Dense] | None = None,
    ) -> SpikingLayer:
        if fixed_point is not None:
            raise ValueError(
                f"fixed_point: {type(self).__name__} has no integer form; use model/neuron=lif or "
                "dual_timescale without recurrence, or fixed_point=null"
            )
        return TwoVariableLayer(synapse(), shape, self, None if recurrent is None else recurrent())


@dataclass(frozen=True)
class RangedNeuron(TwoVariableNeuron):
    """Base of neurons with parameters in ranges: each neuron (or channel) has its own values.

    `learned`: they are trained within their ranges, else they stay as they were drawn.
    """

    learned: bool = True

    #: fields that are ranges, and the number above which each must be
    limits: ClassVar[dict[str, float]]

    def __post_init__(self) -> None:
        for name, above in self.limits.items():
            low, high = getattr(self, name)
            if not above < low <= high:
                limit = f" above {above:g}" if above > -math.inf else ""
                raise ValueError(
                    f"{name}: got {[low, high]}; give the lowest and the highest value{limit}"
                )

    def parameters(self, channels: int) -> dict[str, Bounded]:
        return {name: Bounded(channels, getattr(self, name), self.learned) for name in self.limits}


def decay(tau_ms: Tensor, dt_ms: float) -> Tensor:
    """The factor kept per step."""
    return torch.exp(-dt_ms / tau_ms)


class TwoVariableLayer(SpikingLayer):
    """A synapse, neurons, and possibly recurrent synapses among them."""

    trace_names = ("inputs", "spikes", "rate", "membrane")

    def __init__(
        self,
        synapse: AnySynapse,
        shape: tuple[int, ...],
        neuron: TwoVariableNeuron,
        recurrent: Dense | None = None,
    ):
        super().__init__(shape, neuron.threshold)
        self.neuron = neuron
        self.synapse = synapse
        self.recurrent = recurrent
        self.bounded = nn.ModuleDict(neuron.parameters(shape[0]))

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        return {"input": self.synapse}

    @property
    def recurrent_synapses(self) -> dict[str, Dense]:
        return {} if self.recurrent is None else {"input": self.recurrent}

    def initial_state(self, batch_size: int) -> NeuronState:
        zeros = self.threshold.new_zeros(batch_size, *self.shape)
        return NeuronState(zeros, zeros.clone(), zeros.clone())

    def statistics(self) -> dict[str, Tensor]:
        """The parameters of the neurons, `[C]` each."""
        return {name: value.detach() for name, value in self.values().items()}

    def values(self) -> dict[str, Tensor]:
        """The parameters `[C]` by name."""
        bounded = cast("dict[str, Bounded]", dict(self.bounded.items()))
        return {name: parameter.value() for name, parameter in bounded.items()}

    def forward(
        self,
        x_TB: Tensor,
        state: NeuronState | None,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        values = {name: spread(value, self.shape) for name, value in self.values().items()}
        dynamics = self.neuron.dynamics(values, dt_ms)
        weights = None if self.recurrent is None else self.recurrent.weight
        gain = None
        if self.neuron.normalised:
            gain = 1 - cast("Tensor", dynamics.v_leak)
            weights = None if weights is None else gain[:, None] * weights
            gain = gain[: self.shape[0]]  # rows repeat the channels
        (current,) = currents([self.synapse], x_TB, events, gain)
        out = neurons(
            current,
            None if state is None else NeuronState(*(to_rows(x, lead=1) for x in state)),
            dynamics=dynamics,
            threshold=self.threshold,
            recurrent_MN=weights,
            reset=self.neuron.reset,
            surrogate=self.neuron.surrogate,
            record_membrane="membrane" in traces,
        )
        rate = mean_rate(out.spikes_TBN, traces)
        spikes_TB = to_maps(out.spikes_TBN, self.shape)
        available = {
            "inputs": x_TB,
            "spikes": spikes_TB,
            "rate": None if rate is None else to_maps(rate, self.shape),
            "membrane": None if out.membrane_TBN is None else to_maps(out.membrane_TBN, self.shape),
        }
        after = NeuronState(*(to_maps(x, self.shape) for x in out.state))
        return LayerOutput(spikes_TB, after, select_traces(available, traces))
