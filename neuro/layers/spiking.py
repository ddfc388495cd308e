"""The contract of spiking layers: a neuron's parameters make layers of synapses and neurons.

A layer maps inputs `[T, B, ...]` and its state to spikes, the new state and the requested traces,
in one kernel call over the whole sequence. Inputs that are packed already (`ops/events.py`) can be
handed over as events. Time constants are in milliseconds; the step comes with the data. With a
`fixed_point` the layer computes in the chip's integers, to the last bit, and learns by
straight-through gradients of their rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Gt
from torch import Tensor, nn

from neuro.layers.synapse import (
    AnySynapse,
    currents,
    stored_weight,
    weight_in_use,
    weighted,
)
from neuro.ops.events import Events
from neuro.ops.fixed_point import FixedPoint, input_integers, layer_scale

Milliseconds = Annotated[float, Gt(0)]
Positive = Annotated[float, Gt(0)]


class LayerOutput(NamedTuple):
    """Spikes `[T, B, ...]`, the state after the last step, and traces by name."""

    spikes: Tensor
    state: Any
    traces: dict[str, Tensor]


class SpikingLayer(nn.Module, ABC):
    """Synapses and the neurons that they drive, with one firing threshold for the layer."""

    threshold: Tensor

    #: traces that a caller may request
    trace_names: tuple[str, ...] = ("inputs", "spikes")

    def __init__(
        self, shape: tuple[int, ...], threshold: float, fixed_point: FixedPoint | None = None
    ):
        """`shape` is that of the neurons, without the batch."""
        super().__init__()
        self.shape = shape
        self.register_buffer("threshold", torch.tensor(threshold))
        self.fixed_point = fixed_point
        self.sees_frames = False  #: inputs are real numbers, not spikes; set by the network

    @abstractmethod
    def rest(self, batch_size: int) -> Any:
        """The state at rest for `batch_size` sequences."""

    @property
    @abstractmethod
    def synapses(self) -> dict[str, AnySynapse]:
        """The synapses by the compartment that they drive; `input` where there is only one."""

    @abstractmethod
    def forward(
        self,
        x_TB: Tensor,
        state: Any,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        """Run over a sequence; `state=None` starts at rest, `traces` are names to record."""

    def statistics(self) -> dict[str, Tensor]:
        """Quantities worth logging, see `Observable` in `models/capabilities.py`; `[C]` each."""
        return {}

    @property
    def plastic_buffers(self) -> dict[str, str]:
        """Its buffers in `Plastic.plastic_buffers` (`models/capabilities.py`)."""
        return {}

    def _currents(self, x_TB: Tensor, events: Events | None) -> list[Tensor]:
        """The input of each compartment, as rows `[T, B, N]`."""
        return currents(list(self.synapses.values()), x_TB, events)

    def _sums(
        self, x_TB: Tensor, events: Events | None, fixed_point: FixedPoint
    ) -> tuple[list[Tensor], Tensor, int]:
        """The same on the chip: integer sums, the real value of 1 among them, and vth.

        Products of integers are exact in float32 (and TF32), their sums below 2^24; other
        precisions would round them.
        """
        in_use = [weight_in_use(synapse) for synapse in self.synapses.values()]
        bits = fixed_point.weight_bits
        unit = fixed_point.input_unit if self.sees_frames else 1
        scale = layer_scale([w for _, w in in_use], self.threshold, bits=bits, unit=unit)
        with torch.autocast(x_TB.device.type, enabled=False):
            x_TB = input_integers(x_TB, fixed_point) if self.sees_frames else x_TB
            stored = [(plain, stored_weight(w, scale.step, bits)) for plain, w in in_use]
            sums = weighted(stored, x_TB.float(), events)
        return sums, (scale.step / unit).float(), int(scale.vth)


class Neuron(ABC):
    """The parameters of a kind of spiking neuron: a component of a network's config."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def layer(
        self,
        synapse: Callable[[], AnySynapse],
        shape: tuple[int, ...],
        fixed_point: FixedPoint | None,
    ) -> SpikingLayer:
        """A layer of such neurons; `synapse()` makes a new map from its inputs to `shape`."""


def mean_rate(spikes_TBN: Tensor, traces: Collection[str]) -> Tensor | None:
    """Mean over time, without gradient, if the trace `rate` is requested."""
    return spikes_TBN.detach().mean(0) if "rate" in traces else None


def select_traces(
    available: Mapping[str, Tensor | None], names: Collection[str]
) -> dict[str, Tensor]:
    """The requested traces, which the kernel has therefore recorded."""
    return {name: trace for name in names if (trace := available[name]) is not None}
