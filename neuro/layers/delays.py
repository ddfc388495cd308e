"""Delays of a layer's inputs: constant or learned, of each input channel or of each synapse.

Learned delays are Gaussian kernels over time in training (`ops/delays.py`), whose width shrinks,
and whole numbers of steps in evaluation. They are bounded by their parametrisation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuro.layers.bounded import Bounded
from neuro.layers.synapse import AnySynapse, Dense, TimedSynapse
from neuro.ops.delays import delayed_currents, delayed_inputs, gaussian_delays

DelayKind = Literal["drawn", "axonal", "synaptic"]


class DelayLine(nn.Module, ABC):
    """The last `longest` steps of `channels` inputs, as a state `[B, longest, C]`."""

    none: Tensor  # of the device and type of a state

    def __init__(self, channels: int, longest: int):
        super().__init__()
        self.channels = channels
        self.longest = longest
        self.register_buffer("none", torch.zeros(()), persistent=False)

    def initial_state(self, batch_size: int) -> Tensor:
        """No inputs so far."""
        return self.none.new_zeros(batch_size, self.longest, self.channels)

    def forward(self, x_TBC: Tensor, state: Tensor | None, dt_ms: float) -> tuple[Tensor, Tensor]:
        """The layer's inputs for a sequence, and the state after it."""
        before = self.initial_state(x_TBC.shape[1]) if state is None else state
        known_TBC = torch.cat([before.transpose(0, 1).to(x_TBC), x_TBC])
        after = known_TBC[len(x_TBC) :].transpose(0, 1).contiguous()
        return self._inputs(known_TBC, dt_ms), after

    @abstractmethod
    def channel_delays_ms(self) -> Tensor | None:
        """The delay of each channel `[C]`; None if each synapse has its own."""

    @abstractmethod
    def _inputs(self, known_TBC: Tensor, dt_ms: float) -> Tensor:
        """The layer's inputs, given those from `longest` steps before the sequence on."""

    def _shifted(self, known_TBC: Tensor, delays_ms: Tensor, dt_ms: float) -> Tensor:
        """Inputs that arrive the nearest whole number of steps later, each channel by its own."""
        steps = len(known_TBC) - self.longest
        delays = (delays_ms / dt_ms).round().long()
        source_TC = self.longest - delays + torch.arange(steps, device=delays.device)[:, None]
        return known_TBC.gather(0, source_TC[:, None].expand(-1, known_TBC.shape[1], -1))


class ConstantDelays(DelayLine):
    """A delay of each channel, drawn uniformly from 0 to `max_ms`, at most `longest` steps."""

    delays_ms: Tensor

    def __init__(self, channels: int, max_ms: float, longest: int):
        super().__init__(channels, longest)
        self.register_buffer("delays_ms", max_ms * torch.rand(channels))

    def channel_delays_ms(self) -> Tensor:
        return self.delays_ms

    def _inputs(self, known_TBC: Tensor, dt_ms: float) -> Tensor:
        return self._shifted(known_TBC, self.delays_ms, dt_ms)


class AxonalDelays(DelayLine):
    """A learned delay of each channel, from 0 to `max_ms`; `width` of its kernel in steps."""

    width: Tensor

    def __init__(self, channels: int, max_ms: float, longest: int, width: float):
        super().__init__(channels, longest)
        self.position_ms = Bounded(channels, (0.0, max_ms), learned=True)
        self.register_buffer("width", torch.tensor(width))

    def channel_delays_ms(self) -> Tensor:
        return self.position_ms.value()

    def _inputs(self, known_TBC: Tensor, dt_ms: float) -> Tensor:
        if not self.training:
            return self._shifted(known_TBC, self.channel_delays_ms(), dt_ms)
        positions = self.position_ms.value() / dt_ms
        return delayed_inputs(known_TBC, gaussian_delays(positions, self.width, self.longest))


class History(DelayLine):
    """The last inputs in front of the sequence, for synapses with delays of their own."""

    def channel_delays_ms(self) -> None:
        return None

    def _inputs(self, known_TBC: Tensor, dt_ms: float) -> Tensor:
        return known_TBC


class SynapticDelays(TimedSynapse):
    """A dense synapse with a learned delay of each weight, from 0 to `max_ms`, in steps of `dt_ms`.

    Its inputs begin `longest` steps before the first current, as `History` gives them.
    """

    width: Tensor

    def __init__(self, synapse: Dense, max_ms: float, dt_ms: float, width: float):
        super().__init__(synapse)
        # flat, since matrices are subject to weight decay
        self.position = Bounded(synapse.weight.numel(), (0.0, max_ms / dt_ms), learned=True)
        self.longest = round(max_ms / dt_ms)
        self.dt_ms = dt_ms
        self.register_buffer("width", torch.tensor(width))

    def delays_ms(self) -> Tensor:
        """The delay of each weight in evaluation, `[N, C]`."""
        return self.position.value().round().view_as(self.weight()) * self.dt_ms

    def currents(self, x_TB: Tensor, gain: Tensor | None) -> Tensor:
        weight_NC = self.weight() if gain is None else self.weight() * gain[:, None]
        positions = self.position.value().view_as(weight_NC)
        if self.training:
            kernels = gaussian_delays(positions, self.width, self.longest)
        else:
            delays = positions.round().long()
            kernels = nn.functional.one_hot(delays, self.longest + 1).to(weight_NC)
        return delayed_currents(x_TB, weight_NC[..., None] * kernels)


class Delays(NamedTuple):
    """Settings of a layer's delays; `dt_ms` is the shortest time step, `width` in steps."""

    kind: DelayKind
    max_ms: float
    dt_ms: float
    width: float

    def line(self, channels: int) -> DelayLine:
        """What comes before the synapses."""
        longest = round(self.max_ms / self.dt_ms)
        if self.kind == "drawn":
            return ConstantDelays(channels, self.max_ms, longest)
        if self.kind == "axonal":
            return AxonalDelays(channels, self.max_ms, longest, self.width)
        return History(channels, longest)

    def synapse(self, synapse: Dense) -> AnySynapse:
        """The synapse, with delays of its own if they are synaptic."""
        if self.kind != "synaptic":
            return synapse
        return SynapticDelays(synapse, self.max_ms, self.dt_ms, self.width)
