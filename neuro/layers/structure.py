"""Synapses whose neurons are grown, pruned and frozen task by task (DSD-SNN).

Han et al., IJCAI 2023. Every output channel is free or belongs to the task that grew it. A neuron
listens to neurons of its own and earlier tasks only, and its weights change only while its task is
the current one, so what earlier tasks learned cannot be overwritten and can be used by later ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREE = -1


class _MaskedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, connected: Tensor, plastic: Tensor) -> Tensor:
        ctx.save_for_backward(plastic)
        return weight * connected

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (plastic,) = ctx.saved_tensors
        return grads[0] * plastic, None, None


class StructuredSynapse(nn.Module):
    """A convolution or linear map with an owner for each output channel.

    `owner` `[outputs]` is the task that a neuron belongs to, -1 while it is free; `listens_to`
    the same for the inputs (set by the model when structure changes).
    """

    owner: Tensor
    listens_to: Tensor
    task: Tensor

    def __init__(self, synapse: nn.Conv2d | nn.Linear):
        super().__init__()
        self.synapse = synapse
        outputs, inputs = synapse.weight.shape[:2]
        self.register_buffer("owner", torch.full((outputs,), FREE))
        self.register_buffer("listens_to", torch.zeros(inputs, dtype=torch.long))
        self.register_buffer("task", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        connected, plastic = self._masks()
        weight = _MaskedWeight.apply(self.synapse.weight, connected, plastic)
        if isinstance(self.synapse, nn.Conv2d):
            return F.conv2d(x, weight, stride=self.synapse.stride, padding=self.synapse.padding)
        return F.linear(x.flatten(1), weight)

    def grow(self, count: int, task: int) -> None:
        """Give up to `count` free neurons to a task, which becomes the current one."""
        free = (self.owner == FREE).nonzero().flatten()
        self.owner[free[:count]] = task
        self.task.fill_(task)

    def prune(self, importance: Tensor, below: float) -> int:
        """Free the current task's neurons whose importance is under `below` times their mean."""
        own = self.owner == self.task
        redundant = own & (importance < below * importance[own].mean())
        self.owner[redundant] = FREE
        return int(redundant.sum())

    def _masks(self) -> tuple[Tensor, Tensor]:
        """Which connections exist, and which may change: 0 or 1, of the weight's shape."""
        heard = (self.listens_to != FREE) & (self.listens_to <= self.owner[:, None])
        connected = (heard & (self.owner != FREE)[:, None]).to(self.synapse.weight.dtype)
        plastic = connected * (self.owner == self.task)[:, None]
        shape = (*connected.shape, *(1,) * (self.synapse.weight.ndim - 2))
        return connected.view(shape), plastic.view(shape)
