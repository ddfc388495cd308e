"""Base of sources whose sequences differ in length: padded batches, bucketed by length.

Training batches hold sequences of similar length, so that little is padded: samples are permuted,
windows of `bucket` batches are sorted by length and cut, and the batches are permuted. Evaluation
keeps the order of the split. Both are pure functions of (seed, epoch).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from neuro.data.base import (
    SPLITS,
    Batch,
    DataSource,
    InputCoding,
    InputSpec,
    Loader,
    Split,
    TargetSpec,
    TaskSpec,
    own_share,
)
from neuro.data.loading import cuts
from neuro.data.parts import stratified_order
from neuro.data.store import Array
from neuro.errors import ConfigError, nearest


class Sequences(Protocol):
    """Sequences of a split with a class each."""

    @property
    def lengths(self) -> Array:
        """Steps of each sequence, int64 `[N]`."""
        ...

    @property
    def labels(self) -> Array:
        """The class of each sequence, int64 `[N]`."""
        ...

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        """Sequences `[T_i, ...]` as float32; `key` seeds what is drawn in every epoch."""
        ...


class Selected(NamedTuple):
    """Some sequences of others."""

    whole: Sequences
    rows: Array

    @property
    def lengths(self) -> Array:
        """Steps of each sequence."""
        return self.whole.lengths[self.rows]

    @property
    def labels(self) -> Array:
        """The class of each sequence."""
        return self.whole.labels[self.rows]

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        """See `Sequences`."""
        return self.whole.read(self.rows[positions], key)


class RaggedLoader(Loader):
    """Padded batches of sequences for one process; ids are positions in the split."""

    def __init__(
        self,
        sequences: Sequences,
        *,
        task: str,
        dt_ms: float | None,
        padded: bool,
        batch_size: int,
        bucket: int,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
    ):
        self.samples = len(sequences.labels)
        self._sequences = sequences
        self._task = task
        self._dt_ms = dt_ms
        self._padded = padded
        self._window = batch_size * bucket
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._cuts = cuts(self.samples, batch_size, world_size)

    def __len__(self) -> int:
        return len(self._cuts)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        for positions in self._plan(epoch)[start:]:
            batch = self._batch(positions, epoch if self._shuffle else 0)
            yield own_share(batch, self._rank, self._world_size, repeat=self._shuffle)

    def _plan(self, epoch: int) -> list[Array]:
        """Positions of the samples of each batch, before division among processes."""
        order = np.arange(self.samples)
        if not self._shuffle:
            return [order[first:last] for first, last in self._cuts]
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(order)
        for first in range(0, self.samples, self._window):
            window = order[first : first + self._window]
            window[:] = window[np.argsort(self._sequences.lengths[window], kind="stable")]
        batches = [order[first:last] for first, last in self._cuts]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _batch(self, positions: Array, epoch: int) -> Batch:
        found = self._sequences.read(positions, (self._seed, epoch))
        lengths = self._sequences.lengths[positions]
        inputs = np.zeros((len(found), int(lengths.max()), *found[0].shape[1:]), np.float32)
        for row, sequence in zip(inputs, found, strict=True):
            row[: len(sequence)] = sequence
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(self._sequences.labels[positions]),
            self._dt_ms,
            lengths=torch.from_numpy(lengths) if self._padded else None,
            task=self._task,
            ids=torch.from_numpy(positions.astype(np.int64)),
        )


class RaggedSource(DataSource):
    """A source of sequences of different lengths, which subclasses make in `_open`.

    bucket: batches whose samples are sorted by length together in training; 1 is random batches.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        bucket: int,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        split_seed: int,
    ):
        self.batch_size = batch_size
        self.bucket = bucket
        self.split_seed = split_seed
        self.limits: Mapping[Split, int | None] = {
            "train": limit_train,
            "val": limit_val,
            "test": limit_test,
        }
        self._splits: dict[str, dict[Split, Sequences]] | None = None

    @abstractmethod
    def _open(self) -> dict[str, dict[Split, Sequences]]:
        """The sequences of each task and split."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one step, once the data are prepared."""

    @property
    def elapsed(self) -> int | None:
        """The feature that holds the time elapsed since the step before; see `InputSpec`."""
        return None

    @property
    def coding(self) -> InputCoding:
        """Kind of the values."""
        return "real"

    @property
    @abstractmethod
    def dt_ms(self) -> float | None:
        """The time step."""

    @abstractmethod
    def classes(self, task: str) -> int:
        """Number of classes of a task."""

    def prepare(self) -> None:
        if self._splits is None:
            opened = self._open()
            self._splits = {
                task: {split: self._limited(split, splits[split]) for split in SPLITS}
                for task, splits in opened.items()
            }

    def _limited(self, split: Split, sequences: Sequences) -> Sequences:
        """At most `limit_<split>` samples, with the proportions of the classes."""
        limit = self.limits[split]
        if limit is None or limit >= len(sequences.labels):
            return sequences
        order = stratified_order(sequences.labels, np.random.default_rng([self.split_seed, 1]))
        return Selected(sequences, np.sort(order[:limit]))

    def sequences(self, task: str, split: Split) -> Sequences:
        """The sequences of a split. ConfigError for an unknown task."""
        if task not in self.tasks:
            raise ConfigError(
                f"data: no task {task!r}; it has {', '.join(self.tasks)}."
                + nearest(task, self.tasks)
            )
        self.prepare()
        assert self._splits is not None
        return self._splits[task][split]

    def _lengths(self, task: str) -> Array:
        return np.concatenate([self.sequences(task, split).lengths for split in SPLITS])

    def spec(self, task: str) -> TaskSpec:
        lengths = self._lengths(task)
        classes = self.classes(task)
        return TaskSpec(
            task,
            InputSpec(self.input_shape, elapsed=self.elapsed, coding=self.coding),
            TargetSpec("class", classes=max(self.classes(name) for name in self.tasks)),
            ((int(lengths.max()), self.dt_ms),),
            tuple(range(classes)),
            padded=bool((lengths != lengths[0]).any()),
        )

    def loader(
        self,
        task: str,
        split: Split,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> RaggedLoader:
        size = self.batch_size if batch_size is None else batch_size
        if size < world_size:
            raise ConfigError(
                f"data.batch_size: got {size} for {world_size} processes; it is divided among "
                f"them, so give at least {world_size}."
            )
        return RaggedLoader(
            self.sequences(task, split),
            task=task,
            dt_ms=self.dt_ms,
            padded=self.spec(task).padded,
            batch_size=size,
            bucket=self.bucket,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )


def divided(sequences: Sequences, fraction: float, seed: int) -> tuple[Selected, Selected]:
    """The rest, and a random fraction of the sequences, stratified by class."""
    order = stratified_order(sequences.labels, np.random.default_rng([seed, 0]))
    count = min(len(order) - 1, max(1, round(fraction * len(order))))
    return (
        Selected(sequences, np.sort(order[count:])),
        Selected(sequences, np.sort(order[:count])),
    )


def described(source: RaggedSource) -> Iterator[str]:
    """Lines on each task and split, for `data make`."""
    for task in source.tasks:
        spec = source.spec(task)
        shape = " x ".join(map(str, spec.inputs.shape))
        yield f"{task}: {shape}, {spec.described_timings}, {len(spec.classes)} classes"
        for split in SPLITS:
            found = source.sequences(task, split)
            counts = np.bincount(found.labels, minlength=len(spec.classes))
            yield (
                f"  {split:5s} {len(found.labels):6d} samples of {found.lengths.min()} to "
                f"{found.lengths.max()} steps; of each class {_listed(counts)}"
            )


def _listed(counts: Any) -> str:
    return ", ".join(map(str, counts[:20])) + (", ..." if len(counts) > 20 else "")
