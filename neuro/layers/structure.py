"""Synapses whose output neurons are grown, pruned and frozen task by task (DSD-SNN).

Han et al., IJCAI 2023. Every output channel is free or belongs to the task that grew it. A neuron
has inputs from neurons of its own and earlier tasks only, and its weights change only during its
own task. Later tasks can use what earlier tasks have learned but not overwrite it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.layers.synapse import Synapse, WrappedSynapse

FREE = -1  # owner of a neuron that belongs to no task


class StructuredSynapse(WrappedSynapse):
    """A convolution or linear map with an owner for each output channel.

    Buffers: `owner` `[outputs]`, the task that a neuron belongs to, or -1 if it is free;
    `listens_to` `[inputs]`, the same for the presynaptic neurons (set by the model when the
    structure changes); `task`, the current task; `kept`, a copy of the weights of earlier tasks,
    because weight decay and momentum change a parameter even where its gradient is zero.
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
        """Weights in use: those of the current task, those kept, and 0 for absent connections."""
        learned = self.synapse.weight
        per_map = (1,) * (learned.ndim - 2)
        learning = (self.owner == self.task)[:, None]
        allowed = (self.listens_to != FREE) & (self.listens_to <= self.owner[:, None])
        connected = allowed & (self.owner != FREE)[:, None]
        used = torch.where(learning.view(*learning.shape, *per_map), learned, self.kept)
        return used * connected.view(*connected.shape, *per_map)

    @torch.no_grad()
    def grow(self, count: int, task: int) -> None:
        """Assign up to `count` free neurons to `task`, which becomes the current task."""
        self.kept.copy_(self.weight())  # keeps the weights of the task that ends
        free = (self.owner == FREE).nonzero().flatten()
        self.owner[free[:count]] = task
        self.task.fill_(task)

    def prune(self, importance: Tensor, below: float) -> int:
        """Free neurons of the current task with an importance under `below` times their mean.

        importance: `[outputs]`. Returns the number of neurons that were freed.
        """
        own = self.owner == self.task
        redundant = own & (importance < below * importance[own].mean())
        self.owner[redundant] = FREE
        return int(redundant.sum())
