"""Synapses whose neurons are grown, pruned and frozen task by task (DSD-SNN).

Han et al., IJCAI 2023. Every output channel is free or belongs to the task that grew it. A neuron
listens to neurons of its own and earlier tasks only, and its weights change only while its task is
the current one, so what earlier tasks learned cannot be overwritten and can be used by later ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.layers.synapse import Synapse, WrappedSynapse

FREE = -1


class StructuredSynapse(WrappedSynapse):
    """A convolution or linear map with an owner for each output channel.

    `owner` `[outputs]` is the task that a neuron belongs to, -1 while it is free; `listens_to`
    the same for the inputs (set by the model when structure changes). `kept` holds the weights of
    earlier tasks out of the optimizer's reach: weight decay and momentum move a parameter even
    where its gradient is zero.
    """

    owner: Tensor
    listens_to: Tensor
    task: Tensor
    kept: Tensor

    def __init__(self, synapse: Synapse):
        super().__init__(synapse)
        outputs, inputs = synapse.weight.shape[:2]
        self.register_buffer("owner", torch.full((outputs,), FREE))
        self.register_buffer("listens_to", torch.zeros(inputs, dtype=torch.long))
        self.register_buffer("task", torch.zeros((), dtype=torch.long))
        self.register_buffer("kept", torch.zeros_like(synapse.weight))

    def weight(self) -> Tensor:
        """The weights in use: those that learn now, those kept, and 0 where nothing connects."""
        learned = self.synapse.weight
        per_map = (1,) * (learned.ndim - 2)
        learning = (self.owner == self.task)[:, None]
        heard = (self.listens_to != FREE) & (self.listens_to <= self.owner[:, None])
        connected = heard & (self.owner != FREE)[:, None]
        used = torch.where(learning.view(*learning.shape, *per_map), learned, self.kept)
        return used * connected.view(*connected.shape, *per_map)

    @torch.no_grad()
    def grow(self, count: int, task: int) -> None:
        """Give up to `count` free neurons to a task, which becomes the current one."""
        self.kept.copy_(self.weight())
        free = (self.owner == FREE).nonzero().flatten()
        self.owner[free[:count]] = task
        self.task.fill_(task)

    def prune(self, importance: Tensor, below: float) -> int:
        """Free the current task's neurons whose importance is under `below` times their mean."""
        own = self.owner == self.task
        redundant = own & (importance < below * importance[own].mean())
        self.owner[redundant] = FREE
        return int(redundant.sum())
