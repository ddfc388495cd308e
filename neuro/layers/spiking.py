"""Interfaces of spiking layers and of the neuron parameters that they are created from.

A layer maps inputs `[T, B, ...]` and its state to spikes, the new state and the requested traces,
in one kernel call over the whole sequence. Inputs that are already packed (`ops/events.py`) can be
passed as events. Time constants are in milliseconds; the time step comes with the data. With a
`fixed_point`, the forward pass is exact integer arithmetic of the chip, with straight-through
gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Gt
from torch import Tensor, nn

from neuro.data.base import InputCoding
from neuro.layers.layout import to_rows
from neuro.layers.synapse import AnySynapse, Dense, currents, stored_weight, weight_in_use, weighted
from neuro.ops.events import Events, pack_events
from neuro.ops.fixed_point import FixedPoint, input_integers, layer_scale
from neuro.ops.sequence import is_constant

Milliseconds = Annotated[float, Gt(0)]


class LayerOutput(NamedTuple):
    """Spikes `[T, B, ...]`, the state after the last step, and the requested traces by name."""

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
        #: kind of the inputs; the network sets that of its own for the first layer
        self.coding: InputCoding = "spikes"

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step of `batch_size` sequences."""

    @property
    @abstractmethod
    def synapses(self) -> dict[str, AnySynapse]:
        """Synapses by the name of the compartment that they drive; `input` if there is only one."""

    @abstractmethod
    def forward(
        self,
        x_TB: Tensor,
        state: Any,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        """Run over a sequence `[T, B, ...]`.

        state: None starts from `initial_state`. traces: names to record, of `trace_names`. events:
        the packed inputs, if they are available.
        """

    @property
    def recurrent_synapses(self) -> dict[str, Dense]:
        """Synapses from the layer to itself, by the compartment that they drive."""
        return {}

    def statistics(self) -> dict[str, Tensor]:
        """Values to log, `[C]` each; see `Observable` in `models/capabilities.py`."""
        return {}

    @property
    def plastic_buffers(self) -> dict[str, str]:
        """Buffers that terms update; see `Plastic` in `models/capabilities.py`."""
        return {}

    def _currents(self, x_TB: Tensor, events: Events | None) -> list[Tensor]:
        """Input current of each compartment, as rows `[T, B, N]`."""
        return currents(list(self.synapses.values()), x_TB, events)

    def _sums(
        self, x_TB: Tensor, events: Events | None, fixed_point: FixedPoint
    ) -> tuple[list[Tensor], Tensor, int]:
        """Synaptic sums in the chip's integers, the real value of integer 1, and vth."""
        in_use = [weight_in_use(synapse) for synapse in self.synapses.values()]
        bits = fixed_point.weight_bits
        unit = input_unit(self.coding, fixed_point)
        scale = layer_scale([w for _, w in in_use], self.threshold, bits=bits, unit=unit)
        # Float32 (and TF32) holds products and sums of integers below 2^24 exactly. Autocast would
        # select a precision that rounds them.
        with torch.autocast(x_TB.device.type, enabled=False):
            if self.coding != "spikes":
                x_TB = input_integers(x_TB, unit, fixed_point.input_bits)
            stored = [(plain, stored_weight(w, scale.step, bits)) for plain, w in in_use]
            sums = weighted(stored, x_TB.float(), events)
        return sums, (scale.step / unit).float(), int(scale.vth)


def input_unit(coding: InputCoding, fixed_point: FixedPoint) -> int:
    """The chip's integer for an input of 1.0."""
    return fixed_point.input_unit if coding == "real" else 1


class Neuron(ABC):
    """Parameters of a kind of spiking neuron: a component in the config of a network."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def layer(
        self,
        synapse: Callable[[], AnySynapse],
        shape: tuple[int, ...],
        fixed_point: FixedPoint | None,
        recurrent: Callable[[], Dense] | None = None,
    ) -> SpikingLayer:
        """Create a layer; `synapse()` creates a synapse from the layer's inputs to `shape`.

        `recurrent()` creates one from the layer to itself; networks without recurrence do not give
        it. ValueError for combinations that these neurons do not have.
        """


#: bytes of a layer's spikes that are computed at once where no graph is needed: enough for kernels
#: to be efficient, and little enough for most of it to stay in the caches
PART_BYTES = 1 << 26


def packed(activity_TB: Tensor | None, events: Events | None = None) -> Tensor | None:
    """Spikes as bits, int64 `[T, B, ceil(N / 64)]`.

    Other activity, spikes that are packed already, and None, as they are.
    """
    if events is None:
        if activity_TB is None or activity_TB.dtype == torch.int64 or is_constant(activity_TB):
            return activity_TB
        events = pack_events(to_rows(activity_TB))
    return activity_TB if events is None else events.words.unflatten(0, events.spikes.shape[:2])


def mean_rate(spikes_TBN: Tensor, traces: Collection[str]) -> Tensor | None:
    """Mean spike rate over time, without gradient; None unless the trace `rate` is requested."""
    return spikes_TBN.detach().mean(0) if "rate" in traces else None


def select_traces(
    available: Mapping[str, Tensor | None], names: Collection[str]
) -> dict[str, Tensor]:
    """The requested traces, leaving out those that were not recorded."""
    return {name: trace for name in names if (trace := available[name]) is not None}
