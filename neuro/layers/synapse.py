"""Synapses over whole sequences: time is folded into the batch, once for all steps.

An input that does not change in time (stride 0, see `Batch.sequence`) is transformed once and the
result spread over the steps without a copy. No biases: a neuron's threshold plays their part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from neuro.layers.layout import channels_last
from neuro.ops.fixed_point import synapse_step, weight_integers


def fold_time(transform: Callable[[Tensor], Tensor], x_TB: Tensor) -> Tensor:
    """Apply a transform of `[N, ...]` to every step of `[T, B, ...]`."""
    steps, batch = x_TB.shape[:2]
    if steps > 1 and x_TB.stride(0) == 0:
        once = channels_last(transform(x_TB[0]))
        return once.unsqueeze(0).expand(steps, *once.shape)
    out = channels_last(transform(x_TB.flatten(0, 1)))
    return out.unflatten(0, (steps, batch))


class Dense(nn.Linear):
    """A fully connected map of all that a sample holds, `[N, ...]` to `[N, outputs]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


Synapse = nn.Conv2d | Dense


def convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1, Kaiming-normal, within +-1."""
    return _initialise(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False))


def dense(inputs: int, outputs: int) -> Dense:
    """A fully connected map, Kaiming-normal, within +-1."""
    return _initialise(Dense(inputs, outputs, bias=False))


def apply_weight(synapse: Synapse, weight: Tensor, x: Tensor) -> Tensor:
    """What the synapse would answer with this weight in place of its own."""
    if isinstance(synapse, nn.Conv2d):
        return F.conv2d(x, weight, stride=synapse.stride, padding=synapse.padding)
    return F.linear(x.flatten(1), weight)


class WrappedSynapse(nn.Module, ABC):
    """A synapse that uses its weights in a way of its own."""

    def __init__(self, synapse: Synapse):
        super().__init__()
        self.synapse = synapse

    @abstractmethod
    def weight(self) -> Tensor:
        """The weights in use."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, ...]` to the synapse's outputs."""
        return apply_weight(self.synapse, self.weight(), x)


AnySynapse = Synapse | WrappedSynapse


def weight_in_use(synapse: AnySynapse) -> tuple[Synapse, Tensor]:
    """The plain synapse, which knows shape and stride, and the weights that count."""
    if isinstance(synapse, WrappedSynapse):
        return synapse.synapse, synapse.weight()
    return synapse, synapse.weight


def stored_weight(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """The integers that the chip stores for a weight, whose gradient is that of weight / step."""
    scaled = weight / step.to(weight).clamp_min(torch.finfo(weight.dtype).tiny)
    return scaled + (weight_integers(weight, step, bits).to(weight) - scaled).detach()


def deployed_weight(weight: Tensor, bits: int) -> Tensor:
    """A readout's weight as rounded by the chip, in a scale of its own; the gradient passes."""
    step = synapse_step(weight, bits)
    return stored_weight(weight, step, bits) * step.to(weight)


def correlate(synapse: Synapse, pre_N: Tensor, post_N: Tensor) -> Tensor:
    """sum over N (and places) of post x pre^T, a row per channel of `post_N`.

    `pre_N` are inputs of the synapse `[N, ...]`, `post_N` what its outputs are weighted with: this
    is the weight gradient for the output gradient `post_N`, but no graph is needed for it.
    """
    if isinstance(synapse, nn.Conv2d):
        shape = (post_N.shape[1], *synapse.weight.shape[1:])
        return conv2d_weight(pre_N, shape, post_N, stride=synapse.stride, padding=synapse.padding)
    return post_N.T @ pre_N.flatten(1)


SynapseT = TypeVar("SynapseT", nn.Conv2d, Dense)


def _initialise(module: SynapseT) -> SynapseT:
    """He et al. 2015 for rectifier-like units; clipped to the range that the chip can hold."""
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    module.weight.data.clamp_(-1.0, 1.0)
    return module
