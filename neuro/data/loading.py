"""Load batches from the parts of a task: shuffling, division among processes, and assembly.

The order of an epoch is a function of (seed, epoch) and the files. It does not depend on whether
they are read into memory, nor on the number of processes (except for the last batch, see `cuts`). A
split of up to `store.WINDOW_BYTES` is permuted as a whole. A larger one is shuffled in windows of
random blocks, so that each block is read from disk once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Literal, NamedTuple

import numpy as np
import torch

from neuro.data import store
from neuro.data.augmentation import Augmentation
from neuro.data.base import Batch, Loader
from neuro.data.parts import Part, Rows
from neuro.data.uses import target_of
from neuro.runtime.memory import available_memory

InMemory = bool | Literal["auto"]

#: `in_memory: auto` reads a split into memory if that takes at most this fraction of the available
#: memory, for all processes together
MEMORY_SHARE = 0.25


def cuts(samples: int, batch_size: int, world_size: int) -> list[tuple[int, int]]:
    """Divide an epoch of one part into batches: (start, end) of each.

    The last batch may be smaller. If it had fewer samples than there are processes, it is joined
    with the one before it, so that each process has samples, and at most one more than usual.
    """
    starts = list(range(0, samples, batch_size))
    if len(starts) > 1 and samples - starts[-1] < world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], samples], strict=True))


class _Readers(NamedTuple):
    """Open readers of a part: samples, target images and a teacher's trajectories."""

    samples: Rows
    images: Rows | None
    teacher: Rows | None


class SequenceLoader(Loader):
    """Batches of a task's parts for one process.

    A batch is divided among the processes into contiguous shares that differ by one sample at most.
    If a part has fewer samples than there are processes, training repeats samples so that each
    process has one; evaluation, which must count each sample once, gives the other processes an
    empty batch.

    The id of a sample is its position in the file plus the number of samples in earlier parts.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        task: str,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
        in_memory: InMemory,
        augmentation: Augmentation | None = None,
    ):
        self.samples = sum(len(part) for part in parts)
        self._parts = parts
        self._task = task
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._in_memory = in_memory
        self._augmentation = augmentation
        counts = [part.split.shape[0] for part in parts]
        self._first_ids = np.concatenate([[0], np.cumsum(counts)])  # of each part's file
        self._cuts = [cuts(len(part), batch_size, world_size) for part in parts]

    def __len__(self) -> int:
        return sum(len(c) for c in self._cuts)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        with ExitStack() as stack:
            readers: dict[int, _Readers] = {}
            for number, positions in self._plan(epoch)[start:]:
                part = self._parts[number]
                if number not in readers:
                    in_memory = self._in_memory
                    if in_memory == "auto":
                        needed = len(part) * part.sample_bytes * self._world_size
                        in_memory = needed <= MEMORY_SHARE * available_memory()
                    readers[number] = _Readers(
                        stack.enter_context(part.reader(in_memory)),
                        stack.enter_context(part.reader_beside(part.images, in_memory)),
                        stack.enter_context(part.reader_beside(part.teacher, in_memory)),
                    )
                share = np.array_split(positions, self._world_size)[self._rank]
                yield self._batch(number, share, readers[number], epoch)

    def _batch(self, number: int, positions: store.Array, readers: _Readers, epoch: int) -> Batch:
        """Read and augment the samples of a part at some positions."""
        part = self._parts[number]
        rows, frames = part.rows[positions], part.split.held_frames
        stored = readers.samples.gather(positions)
        inputs, targets = part.inputs(stored), _labels(part, positions, readers.images)
        if self._augmentation:
            if frames is not None and self._augmentation.in_time:  # frames will differ
                inputs, frames = np.repeat(inputs, frames, axis=1), None
            kind = target_of(part.split, part.encoding.symbols is not None)
            inputs, targets = self._augmentation(
                inputs, targets, kind, rows, (self._seed, epoch, number), part.dt_ms
            )
        own = torch.from_numpy(inputs)
        batch = Batch(
            own,
            own if targets is None else torch.from_numpy(targets),
            part.dt_ms,
            frames,
            task=self._task,
            ids=torch.from_numpy(self._first_ids[number] + rows),
        )
        if readers.teacher is not None:
            batch = batch._replace(teacher=torch.from_numpy(readers.teacher.gather(positions)))
        return _with_own_targets(batch, part, stored) if targets is None else batch

    def _plan(self, epoch: int) -> list[tuple[int, store.Array]]:
        """All batches of an epoch, before division among processes: (part, positions in it)."""
        rng = np.random.default_rng([self._seed, epoch])
        plan = []
        for number, (part, bounds) in enumerate(zip(self._parts, self._cuts, strict=True)):
            order = part.order(rng) if self._shuffle else np.arange(len(part))
            if self._shuffle and len(part) < self._world_size:
                order = np.resize(order, self._world_size)
                bounds = [(0, self._world_size)]
            plan += [(number, order[a:b]) for a, b in bounds]
        if self._shuffle and len(self._parts) > 1:
            plan = [plan[i] for i in rng.permutation(len(plan))]
        return plan


def _labels(part: Part, positions: store.Array, images: Rows | None) -> store.Array | None:
    """A new array of int64 labels or float32 values; None if the part has no targets."""
    if part.images is not None and images is not None:
        return part.images.inputs(images.gather(positions))
    if part.split.labels is None:
        return None
    labels: store.Array = part.split.labels[part.rows[positions]]
    return labels[:, None] if labels.dtype.kind == "f" and labels.ndim == 1 else labels


def _with_own_targets(batch: Batch, part: Part, stored: store.Array) -> Batch:
    """The sequence as its own target: `[B, T, features]`, or `[B, T]` symbols."""
    if part.encoding.symbols is None:
        return batch._replace(targets=batch.sequence().flatten(2))
    symbols = torch.from_numpy(stored.reshape(stored.shape[:2]).astype(np.int64))
    return batch._replace(targets=symbols.expand(-1, batch.steps))
