"""Replay of a small memory of earlier phases' samples (Rolnick et al. 2019, Chaudhry et al. 2019).

Samples are chosen from an epoch of each earlier phase's data, whose order is random:

- uniform: the first ones of each phase
- balanced: as many of each class of each phase
- reservoir: uniform among the samples of all earlier phases together, so that a phase with more
  data has more of them, as in reservoir sampling of the whole stream
- importance: those of each phase at random with probabilities that grow with their last losses
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuro.config.phase import ReplayChoice
from neuro.data.base import Batch, Loader, WrappedLoader, layout_of, own_share
from neuro.data.mixture import load_states, states

#: last losses of samples by task and id
Losses = dict[tuple[str | None, int], float]


class Earlier(NamedTuple):
    """Training data of an earlier phase, not divided among processes, and its observed losses."""

    loader: Loader
    losses: Losses


class LossRecorder(WrappedLoader):
    """A loader that records the last loss of each sample of its tasks."""

    def __init__(self, loader: Loader, tasks: Sequence[str]):
        super().__init__(loader)
        self.uses_losses = True
        self.losses: Losses = {}
        self._tasks = (None, *tasks)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        return self.loader.batches(epoch, start)

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        if self.loader.uses_losses:
            self.loader.observe(ids, losses, task)
        if task in self._tasks:
            pairs = zip(ids.tolist(), losses.tolist(), strict=True)
            self.losses |= {(task, number): loss for number, loss in pairs}

    def state_dict(self) -> dict[str, Any]:
        numbers = torch.tensor(
            [[self._tasks.index(task), number] for task, number in self.losses], dtype=torch.int64
        )
        values = torch.tensor(list(self.losses.values()), dtype=torch.float64)
        return {"ids": numbers, "losses": values, "inner": self.loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses.clear()  # in place: later phases refer to it
        losses = state["losses"].tolist()
        for (task, number), loss in zip(state["ids"].tolist(), losses, strict=True):
            self.losses[self._tasks[task], number] = loss
        self.loader.load_state_dict(state["inner"])


@dataclass(frozen=True)
class Choice:
    """How many samples of earlier phases are kept, and which.

    `capacity`: of all phases together, divided equally; None: `samples` of each.
    """

    kind: ReplayChoice = "uniform"
    samples: int = 50
    capacity: int | None = None

    def quotas(self, places: int, samples: int) -> list[int]:
        """The numbers of samples for phases, or for classes of a phase that has `samples`."""
        total = samples if self.capacity is None else self.capacity
        return [total // places + (place < total % places) for place in range(places)]

    def of(self, earlier: Sequence[Earlier], seed: int) -> Iterator[Batch]:
        """The chosen samples, in batches of the loaders."""
        every = self.samples * len(earlier)
        quotas = self.quotas(len(earlier), every)
        match self.kind:
            case "uniform":
                for phase, quota in zip(earlier, quotas, strict=True):
                    yield from _first(phase.loader, quota)
            case "balanced":
                yield from self._balanced(earlier, every)
            case "reservoir":
                bounds = np.cumsum([0, *(phase.loader.samples for phase in earlier)])
                kept = np.random.default_rng([seed, 1]).permutation(bounds[-1])[: sum(quotas)]
                for phase, low, high in zip(earlier, bounds, bounds[1:], strict=False):
                    own = kept[(kept >= low) & (kept < high)] - low
                    yield from _at(phase.loader, own)
            case "importance":
                for number, (phase, quota) in enumerate(zip(earlier, quotas, strict=True)):
                    rng = np.random.default_rng([seed, 2, number])
                    yield from _at(phase.loader, _important(phase, rng)[:quota])

    def _balanced(self, earlier: Sequence[Earlier], every: int) -> Iterator[Batch]:
        """As many samples of each class of each phase."""
        occurring = [
            sorted({label for batch in phase.loader.batches(0) for label in batch.targets.tolist()})
            for phase in earlier
        ]
        quotas = iter(self.quotas(sum(map(len, occurring)), every))
        for phase, labels in zip(earlier, occurring, strict=True):
            left = Counter({label: next(quotas) for label in labels})
            for batch in phase.loader.batches(0):
                chosen = []
                for row, label in enumerate(batch.targets.tolist()):
                    if left[label] > 0:
                        left[label] -= 1
                        chosen.append(row)
                if chosen:
                    yield batch.rows(chosen)


class ReplayLoader(Loader):
    """The batches of a phase, mixed with batches from a memory of earlier phases.

    The fraction `share` of all batches comes from the memory, at positions that are a function of
    (seed, epoch). Each has up to `batch_size` of its samples, drawn anew; samples of different
    time steps are in different batches.

    `earlier` are not divided among processes: each process takes its share of the memory.
    """

    def __init__(
        self,
        current: Loader,
        earlier: Sequence[Earlier],
        choice: Choice,
        *,
        batch_size: int,
        share: float,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.current = current
        self.earlier = tuple(earlier)
        self.choice = choice
        self.batch_size = batch_size
        self.seed = seed
        self._rank, self._world_size = rank, world_size
        self._replayed = max(1, round(len(current) * share / (1 - share)))
        self._memory: list[Batch] | None = None  # samples that can be in one batch
        self.samples = current.samples
        self.uses_losses = current.uses_losses

    def __len__(self) -> int:
        return len(self.current) + self._replayed

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        if self._memory is None:
            self._memory = _alike(self.choice.of(self.earlier, self.seed))
        generator = np.random.default_rng([self.seed, epoch])
        from_memory = np.zeros(len(self), dtype=bool)
        from_memory[generator.permutation(len(self))[: self._replayed]] = True
        stream = self.current.batches(epoch, int((~from_memory[:start]).sum()))
        for position in range(start, len(self)):
            if from_memory[position]:
                rng = np.random.default_rng([self.seed, epoch, position])
                yield own_share(self._draw(rng), self._rank, self._world_size, repeat=True)
            else:
                yield next(stream)

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        self.current.observe(ids, losses, task)

    def state_dict(self) -> dict[str, Any]:
        return states((self.current, *(phase.loader for phase in self.earlier)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_states((self.current, *(phase.loader for phase in self.earlier)), state)

    def _draw(self, rng: np.random.Generator) -> Batch:
        """Samples of the memory for one batch of all processes."""
        assert self._memory is not None
        sizes = np.array([len(group.targets) for group in self._memory])
        group = self._memory[rng.choice(len(sizes), p=sizes / sizes.sum())]
        if len(group.targets) <= self.batch_size:
            return group
        return group.rows(rng.permutation(len(group.targets))[: self.batch_size])


def _alike(batches: Iterator[Batch]) -> list[Batch]:
    """Batches joined where they have the same time steps; `task` is None where that differs."""
    groups: dict[Any, Batch] = {}
    for batch in batches:
        key = batch.frames, layout_of(batch)  # held frames cannot be joined with others
        if key in groups:
            group = groups[key]
            task = group.task if group.task == batch.task else None
            batch = group.joined(batch)._replace(task=task)
        groups[key] = batch
    return list(groups.values())


def _first(loader: Loader, samples: int) -> Iterator[Batch]:
    """The first `samples` samples of a loader's first epoch, in its own batches."""
    left = samples
    for batch in loader.batches(0):
        if left == 0:
            return
        taken = min(left, len(batch.targets))
        yield batch.rows(slice(taken))
        left -= taken


def _at(loader: Loader, positions: np.ndarray[Any, Any]) -> Iterator[Batch]:
    """The samples at some positions of a loader's first epoch, in its own batches."""
    start = 0
    for batch in loader.batches(0):
        stop = start + len(batch.targets)
        own = np.sort(positions[(positions >= start) & (positions < stop)]) - start
        if len(own):
            yield batch.rows(own)
        start = stop


def _important(phase: Earlier, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Positions of a phase's samples in the order in which they are kept.

    A weighted order without replacement (Efraimidis and Spirakis 2006). Samples without a loss have
    the mean of the others.
    """
    keys = [
        (batch.task, number)
        for batch in phase.loader.batches(0)
        for number in (batch.ids.tolist() if batch.ids is not None else [])
    ]
    known = list(phase.losses.values())
    usual = sum(known) / len(known) if known else 1.0
    weights = np.array([phase.losses.get(key, usual) for key in keys]).clip(1e-6)
    order: np.ndarray[Any, Any] = np.argsort(np.log(rng.random(len(keys))) / weights)[::-1]
    return order
