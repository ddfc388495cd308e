"""Synapses over whole sequences: time is folded into the batch, so all steps are one call.

Spikes are summed event by event where there are kernels for it (`ops/events.py`), and by a matrix
product or a convolution elsewhere. An input that is constant in time (stride 0, see
`Batch.sequence`) is transformed once and the result expanded over the steps. There are no biases;
the neurons have thresholds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from neuro.layers.layout import channels_last, to_maps, to_rows
from neuro.ops.events import Convolution, Events, event_currents, event_products, pack_events
from neuro.ops.fixed_point import synapse_step, weight_integers
from neuro.ops.sequence import hold, is_constant


def fold_time(transform: Callable[[Tensor], Tensor], x_TB: Tensor) -> Tensor:
    """Apply a transform of `[N, ...]` to all steps of `[T, B, ...]` at once."""
    steps, batch = x_TB.shape[:2]
    if is_constant(x_TB):  # frames that are held: one step is computed, and repeated by a view
        return hold(channels_last(transform(x_TB[0])), steps)
    out = channels_last(transform(x_TB.flatten(0, 1)))
    return out.unflatten(0, (steps, batch))


class Dense(nn.Linear):
    """A fully connected layer on flattened samples, `[N, ...]` to `[N, outputs]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


Synapse = nn.Conv2d | Dense


def convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution with padding 1, Kaiming-normal weights clipped to +-1."""
    return _initialise(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False))


def dense(inputs: int, outputs: int) -> Dense:
    """A fully connected layer, Kaiming-normal weights clipped to +-1."""
    return _initialise(Dense(inputs, outputs, bias=False))


def orthogonal(units: int) -> Dense:
    """Recurrent weights that keep the length of a vector."""
    made = Dense(units, units, bias=False)
    nn.init.orthogonal_(made.weight)
    return made


def apply_weight(synapse: Synapse, weight: Tensor, x: Tensor) -> Tensor:
    """Output of the synapse for inputs `[N, ...]`, with `weight` in place of its own."""
    if isinstance(synapse, nn.Conv2d):
        return F.conv2d(x, weight, stride=synapse.stride, padding=synapse.padding)
    return F.linear(x.flatten(1), weight)


class WrappedSynapse(nn.Module, ABC):
    """A synapse whose effective weights differ from its parameters."""

    def __init__(self, synapse: Synapse):
        super().__init__()
        self.synapse = synapse

    @abstractmethod
    def weight(self) -> Tensor:
        """The effective weights, in the shape of the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs `[N, ...]` to postsynaptic currents."""
        return apply_weight(self.synapse, self.weight(), x)


class TimedSynapse(WrappedSynapse):
    """A synapse whose currents depend on inputs of several steps."""

    def weight(self) -> Tensor:
        return self.synapse.weight

    @abstractmethod
    def currents(self, x_TB: Tensor, gain: Tensor | None) -> Tensor:
        """Currents `[T, B, N]` for inputs `[T + D, B, C]`, with a factor of each output `[N]`."""


AnySynapse = Synapse | WrappedSynapse


def weight_in_use(synapse: AnySynapse) -> tuple[Synapse, Tensor]:
    """The plain synapse, for its geometry, and the effective weights."""
    if isinstance(synapse, WrappedSynapse):
        return synapse.synapse, synapse.weight()
    return synapse, synapse.weight


def stored_weight(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """Integers that the chip stores, with the gradient of weight / step (straight-through)."""
    # the step is 0 if all weights are 0, which they stay
    scaled = weight / step.to(weight).clamp_min(torch.finfo(weight.dtype).tiny)
    return scaled + (weight_integers(weight, step, bits).to(weight) - scaled).detach()


def deployed_weight(weight: Tensor, bits: int) -> Tensor:
    """Quantized weights of a readout in real units, with a straight-through gradient."""
    step = synapse_step(weight, bits)
    return stored_weight(weight, step, bits) * step.to(weight)


def currents(
    synapses: Sequence[AnySynapse],
    x_TB: Tensor,
    events: Events | None = None,
    gain: Tensor | None = None,
) -> list[Tensor]:
    """Postsynaptic currents of synapses of the same shape and geometry, as rows `[T, B, N]` each.

    x_TB: inputs `[T, B, ...]`. events: the packed inputs, if they are available. gain: factor of
    each output channel `[C]`; weights are scaled, which takes less time than scaling all currents.
    """
    timed = [synapse for synapse in synapses if isinstance(synapse, TimedSynapse)]
    if timed:
        return [synapse.currents(x_TB, gain) for synapse in timed]
    if any(_needs_forward(synapse) for synapse in synapses):
        rows = [to_rows(fold_time(synapse, x_TB)) for synapse in synapses]
        return rows if gain is None else [r * gain.repeat(r.shape[2] // len(gain)) for r in rows]
    in_use = [weight_in_use(synapse) for synapse in synapses]
    if gain is not None:
        in_use = [(s, w * gain.view(-1, *[1] * (w.ndim - 1))) for s, w in in_use]
    return weighted(in_use, x_TB, events)


def _needs_forward(synapse: AnySynapse) -> bool:
    """True if forward hooks or a bias rule out computing from the weights alone."""
    hooks = synapse._forward_hooks or synapse._forward_pre_hooks
    return bool(hooks) or getattr(synapse, "bias", None) is not None


def weighted(
    synapses: Sequence[tuple[Synapse, Tensor]], x_TB: Tensor, events: Events | None = None
) -> list[Tensor]:
    """Currents as in `currents`, for synapses given with their weights."""
    # a constant input is transformed once in any case, which events could not make faster
    if events is None and not is_constant(x_TB):
        events = pack_events(to_rows(x_TB))
    if events is None:
        folded = (fold_time(partial(apply_weight, s, weight), x_TB) for s, weight in synapses)
        return [to_rows(out) for out in folded]
    shape = x_TB.shape[2:]
    # synapses onto several compartments share one pass over the events, as groups of the table
    table = torch.stack([_table(weight, shape) for _, weight in synapses], 2)
    return list(event_currents(events, table, _geometry(synapses[0][0], shape)))


def correlate(
    synapse: nn.Conv2d | nn.Linear, pre_N: Tensor, posts_N: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Correlation of pre- and postsynaptic activity in the shape of the weights; no gradient.

    For each of `posts_N` `[N, ...]`, the sum over samples and places of post x pre^T, with inputs
    `pre_N` `[N, ...]`: the weight gradient for the output gradient `post`, computed without an
    autograd graph. The second value is the single row `[1, ...]` for a post of ones.
    """
    events = [pack_events(to_rows(post[None])) for post in posts_N]
    words = [found.words for found in events if found is not None]
    if len(words) == len(posts_N):
        return correlate_events(synapse, pre_N, words, posts_N[0].shape[1])
    geometry = _geometry(synapse, pre_N.shape[1:])
    # a post of ones everywhere is a single sample with the summed inputs
    everywhere = torch.ones_like(posts_N[0][:1, :1])
    products = [_dense_correlation(geometry, pre_N, post) for post in posts_N]
    return products, _dense_correlation(geometry, pre_N.sum(0, keepdim=True), everywhere)


def correlate_events(
    synapse: nn.Conv2d | nn.Linear, pre_N: Tensor, posts: Sequence[Tensor], channels: int
) -> tuple[list[Tensor], Tensor]:
    """`correlate` with packed postsynaptic spikes `[N, words]` of `channels` output channels."""
    shape = pre_N.shape[1:]
    geometry = _geometry(synapse, shape)
    places = 1 if geometry is None else shape[1] * shape[2]
    values = to_rows(pre_N, lead=1).unflatten(1, (places, -1))
    summed, seen = event_products(posts, channels, values, geometry)
    return [_untable(one, geometry, shape) for one in summed], _untable(seen[None], geometry, shape)


def _dense_correlation(geometry: Convolution | None, pre_N: Tensor, post_N: Tensor) -> Tensor:
    if geometry is None:
        return post_N.T @ pre_N.flatten(1)
    shape = (post_N.shape[1], pre_N.shape[1], *geometry.kernel)
    return conv2d_weight(pre_N, shape, post_N, stride=geometry.stride, padding=geometry.padding)


def _geometry(synapse: nn.Conv2d | nn.Linear, shape: torch.Size) -> Convolution | None:
    """Geometry of a convolution over maps of `shape` `[C, H, W]`; None for a dense synapse."""
    if not isinstance(synapse, nn.Conv2d):
        return None
    sides = shape[1:], synapse.kernel_size, synapse.stride, synapse.padding
    return Convolution(*(cast("tuple[int, int]", tuple(side)) for side in sides))


def _table(weight: Tensor, shape: torch.Size) -> Tensor:
    """Reorder weights from inputs of `shape` to `[taps, channels, outputs]`."""
    if weight.ndim == 4:
        return weight.permute(2, 3, 1, 0).flatten(0, 1)
    return to_rows(weight.unflatten(1, shape), lead=1).T[None]


def _untable(products: Tensor, geometry: Convolution | None, shape: torch.Size) -> Tensor:
    """Reorder `[outputs, taps, channels]` to the shape of a synapse's weights."""
    if geometry is None:
        return to_maps(products[:, 0], shape).flatten(1)
    return products.unflatten(1, geometry.kernel).movedim(3, 1)


SynapseT = TypeVar("SynapseT", nn.Conv2d, Dense)


def _initialise(module: SynapseT) -> SynapseT:
    """Kaiming-normal (He et al. 2015), clipped to +-1, the range of the chip's weights."""
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    module.weight.data.clamp_(-1.0, 1.0)
    return module
