"""A loader that combines loaders, for joint training on several tasks.

A batch holds samples of one task, because tasks may differ in length and time step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from neuro.data.base import Batch, Loader


class ConcatLoader(Loader):
    """All batches of several loaders in a random order, a pure function of (seed, epoch)."""

    def __init__(self, loaders: Sequence[Loader], seed: int):
        self.loaders = tuple(loaders)
        self.seed = seed
        self.samples = sum(loader.samples for loader in self.loaders)
        self.uses_losses = any(loader.uses_losses for loader in self.loaders)

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        order = np.repeat(np.arange(len(self.loaders)), [len(loader) for loader in self.loaders])
        np.random.default_rng([self.seed, epoch]).shuffle(order)
        skipped = np.bincount(order[:start], minlength=len(self.loaders))
        streams = [
            loader.batches(epoch, int(skip))
            for loader, skip in zip(self.loaders, skipped, strict=True)
        ]
        for source in order[start:]:
            yield next(streams[source])

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        for loader in self.loaders:
            loader.observe(ids, losses, task)

    def state_dict(self) -> dict[str, Any]:
        return states(self.loaders)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_states(self.loaders, state)


def states(loaders: Sequence[Loader]) -> dict[str, Any]:
    """The states of loaders by their number, without empty ones."""
    found = {str(i): loader.state_dict() for i, loader in enumerate(loaders)}
    return {number: state for number, state in found.items() if state}


def load_states(loaders: Sequence[Loader], given: Mapping[str, Any]) -> None:
    """Load the states of equal loaders."""
    for number, state in given.items():
        loaders[int(number)].load_state_dict(state)
