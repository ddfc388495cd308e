"""Loaders that combine loaders: joint training on several tasks, and replay of earlier ones.

A batch holds samples of one task, because tasks may differ in length and time step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from neuro.data.base import Batch, Loader, own_share


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
        return _states(self.loaders)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _load_states(self.loaders, state)


class ReplayLoader(Loader):
    """The batches of a task, mixed with batches from a small memory of earlier tasks.

    The memory keeps `samples` samples of each earlier loader: the first ones of its first epoch,
    whose order is random. The fraction `share` of all batches comes from the memory, at positions
    that are a function of (seed, epoch). Experience replay: Rolnick et al. 2019, Chaudhry et al.
    2019.

    `earlier` are not divided among processes: each process takes its share of the memory.
    """

    def __init__(
        self,
        current: Loader,
        earlier: Sequence[Loader],
        *,
        samples: int,
        share: float,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.current = current
        self.earlier = tuple(earlier)
        self.kept = samples
        self.seed = seed
        self._rank, self._world_size = rank, world_size
        self._replayed = max(1, round(len(current) * share / (1 - share)))
        self._memory: list[Batch] | None = None
        self.samples = current.samples
        self.uses_losses = current.uses_losses

    def __len__(self) -> int:
        return len(self.current) + self._replayed

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        if self._memory is None:
            kept = (b for loader in self.earlier for b in _first(loader, self.kept))
            share = (self._rank, self._world_size)
            self._memory = [own_share(batch, *share, repeat=True) for batch in kept]
        generator = np.random.default_rng([self.seed, epoch])
        from_memory = np.zeros(len(self), dtype=bool)
        from_memory[generator.permutation(len(self))[: self._replayed]] = True
        choices = generator.integers(len(self._memory), size=len(self))
        stream = self.current.batches(epoch, int((~from_memory[:start]).sum()))
        for position in range(start, len(self)):
            replay = from_memory[position]
            yield self._memory[choices[position]] if replay else next(stream)

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        self.current.observe(ids, losses, task)

    def state_dict(self) -> dict[str, Any]:
        return _states((self.current, *self.earlier))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _load_states((self.current, *self.earlier), state)


def _states(loaders: Sequence[Loader]) -> dict[str, Any]:
    """The states of loaders by their number, without empty ones."""
    states = {str(i): loader.state_dict() for i, loader in enumerate(loaders)}
    return {number: state for number, state in states.items() if state}


def _load_states(loaders: Sequence[Loader], states: Mapping[str, Any]) -> None:
    for number, state in states.items():
        loaders[int(number)].load_state_dict(state)


def _first(loader: Loader, samples: int) -> Iterator[Batch]:
    """The first `samples` samples of a loader's first epoch, in its own batches."""
    left = samples
    for batch in loader.batches(0):
        taken = min(left, len(batch.targets))
        yield batch.rows(slice(taken))
        left -= taken
        if left == 0:
            return
