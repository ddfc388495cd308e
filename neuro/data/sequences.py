"""Sources whose tasks lie in files of the layout of `store`: reading, order, and batches.

A *part* is what a task uses of one file: some samples at one frame rate. A task may have several,
and no batch mixes them, so every batch has one time step.

The order of an epoch depends on (seed, epoch) and the files alone: not on whether they are read
into memory, nor (but for the last batch, see `cuts`) on the number of processes. A split of up to
`store.WINDOW_BYTES` is permuted as a whole. A larger one is shuffled as its blocks allow: random
blocks fill a window, whose samples are permuted; so each block is read from disk once per epoch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import psutil
import torch
from annotated_types import Ge, Interval

from neuro.data import store
from neuro.data.base import SPLITS, Batch, DataSource, Loader, Split, TaskSpec
from neuro.data.transforms import Augmentation, Transforms
from neuro.errors import ConfigError, DataError, nearest

Count = Annotated[int, Ge(1)]
Fraction = Annotated[float, Interval(gt=0, lt=1)]
Seed = Annotated[int, Ge(0)]
InMemory = bool | Literal["auto"]
#: `__pydantic_config__` of dataclasses for nested nodes: unknown keys are refused in them too
STRICT: Any = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

#: `in_memory: auto` reads a split into memory if all processes together then use at most this
#: share of what is available at that moment
MEMORY_SHARE = 0.25
#: splits up to this size are read once in `prepare`, to find damage and NaN before training
VERIFIED_BYTES = 1 << 30


def stratified_order(labels: store.Array, rng: np.random.Generator) -> store.Array:
    """A random permutation of which every prefix has all classes in about their proportions."""
    shuffled = rng.permutation(len(labels))
    key = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        key[members] = (np.arange(len(members)) + 0.5) / len(members)
    order: store.Array = np.lexsort((rng.random(len(labels)), key))
    return order


class Part:
    """Some samples of one file's split, at one frame rate.

    `rows` are their sorted positions in the file. `scale` is what stored values are multiplied by.
    """

    def __init__(self, split: store.Split, rows: store.Array, *, rate_hz: float, scale: float):
        self.split = split
        self.rows = rows
        self.rate_hz = rate_hz
        self.scale = scale
        self._memory: store.Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dt_ms(self) -> float:
        return 1000.0 / self.rate_hz

    @property
    def labels(self) -> store.Array | None:
        """Labels of these samples."""
        return None if self.split.labels is None else self.split.labels[self.rows]

    @property
    def strata(self) -> store.Array:
        """Labels by which samples are divided fairly; one for all where there are no classes."""
        labels = self.labels
        if labels is None or labels.ndim != 1 or labels.dtype.kind != "i":
            return np.zeros(len(self), np.int64)
        return labels

    def select(self, positions: store.Array) -> Part:
        """A part of the part."""
        rows = np.sort(self.rows[positions])
        return Part(self.split, rows, rate_hz=self.rate_hz, scale=self.scale)

    def order(self, rng: np.random.Generator) -> store.Array:
        """A random order of all samples that visits each block of the file once."""
        blocks = self.rows // self.split.block
        present = np.unique(blocks)
        window = self._window()
        if len(present) <= window:
            return rng.permutation(len(self.rows))
        present = rng.permutation(present)
        first = np.searchsorted(blocks, present, side="left")
        last = np.searchsorted(blocks, present, side="right")
        order = []
        for start in range(0, len(present), window):
            chosen = zip(first[start : start + window], last[start : start + window], strict=True)
            order.append(rng.permutation(np.concatenate([np.arange(a, b) for a, b in chosen])))
        return np.concatenate(order)

    @contextmanager
    def reader(self, in_memory: bool) -> Iterator[Rows]:
        """Gives samples by position, from memory or from the file."""
        if in_memory and self._memory is None:
            with self.split.blocks() as blocks:
                self._memory = self._read_all(blocks)
        if self._memory is not None:
            yield InMemoryRows(self._memory)
            return
        with self.split.blocks() as blocks:
            yield LazyRows(self, blocks, self._window())

    def _window(self) -> int:
        """Blocks that are shuffled together, and kept while they are being used."""
        block_bytes = self.split.block * self.split.sample_bytes
        return max(1, store.WINDOW_BYTES // block_bytes)

    def _read_all(self, blocks: store.BlockReader) -> store.Array:
        samples = np.empty((len(self.rows), *self.split.shape[1:]), self.split.dtype)
        numbers, starts = np.unique(self.rows // self.split.block, return_index=True)
        for number, start, end in zip(numbers, starts, [*starts[1:], len(self.rows)], strict=True):
            block = blocks.read(int(number))
            rows = self.rows[start:end] - number * self.split.block
            samples[start:end] = block if len(rows) == len(block) else block[rows]
        return samples


class Rows(Protocol):
    """Samples by position."""

    def gather(self, positions: store.Array) -> store.Array:
        """A fresh array of the samples at `positions`, as stored."""


class InMemoryRows:
    """Samples of a part that lies in memory."""

    def __init__(self, samples: store.Array):
        self._samples = samples

    def gather(self, positions: store.Array) -> store.Array:
        if len(positions) and np.array_equal(
            positions, np.arange(positions[0], positions[0] + len(positions))
        ):  # evaluation reads straight through; a slice is several times as fast
            return self._samples[positions[0] : positions[0] + len(positions)].copy()
        return self._samples[positions]


class LazyRows:
    """Samples of a part on disk. The blocks of one window stay in memory, oldest out first."""

    def __init__(self, part: Part, blocks: store.BlockReader, window: int):
        self._part = part
        self._blocks = blocks
        self._window = window
        self._kept: OrderedDict[int, store.Array] = OrderedDict()

    def gather(self, positions: store.Array) -> store.Array:
        split = self._part.split
        numbers, offsets = np.divmod(self._part.rows[positions], split.block)
        samples = np.empty((len(positions), *split.shape[1:]), split.dtype)
        for number in dict.fromkeys(numbers.tolist()):  # in order: the next window's come last
            if number not in self._kept:
                self._kept[number] = self._blocks.read(number)
            self._kept.move_to_end(number)
            here = np.flatnonzero(numbers == number)
            samples[here] = self._kept[number][offsets[here]]
        while len(self._kept) > self._window:
            self._kept.popitem(last=False)
        return samples


def cuts(samples: int, batch_size: int, world_size: int) -> list[tuple[int, int]]:
    """Where an epoch of one part is cut into batches: (start, end) of each.

    The last batch is smaller. If it would have fewer samples than there are processes, it joins
    the one before it, so that no process is left without samples (and none has more than one
    sample too many).
    """
    starts = list(range(0, samples, batch_size))
    if len(starts) > 1 and samples - starts[-1] < world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], samples], strict=True))


class SequenceLoader(Loader):
    """Batches of a task's parts for one process.

    A batch is divided among the processes in contiguous shares that differ by one sample at most.
    Should a whole part have fewer samples than there are processes, then training repeats samples
    so that each process has one, while evaluation, which counts each sample exactly once, hands
    an empty batch to the processes that are left over.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
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
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._in_memory = in_memory
        self._augmentation = augmentation
        self._cuts = [cuts(len(part), batch_size, world_size) for part in parts]

    def __len__(self) -> int:
        return sum(len(c) for c in self._cuts)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        with ExitStack() as stack:
            readers: dict[int, Rows] = {}
            for number, positions in self._plan(epoch)[start:]:
                part = self._parts[number]
                if number not in readers:
                    in_memory = self._in_memory
                    if in_memory == "auto":
                        in_memory = _fits(part, self._world_size)
                    readers[number] = stack.enter_context(part.reader(in_memory))
                share = np.array_split(positions, self._world_size)[self._rank]
                batch = _inputs(part, readers[number].gather(share))
                if self._augmentation:
                    key = self._seed, epoch, number
                    batch = _augmented(batch, self._augmentation, part.rows[share], key)
                yield _with_targets(batch, part, share)

    def _plan(self, epoch: int) -> list[tuple[int, store.Array]]:
        """All batches of an epoch over all processes: (part, positions in it)."""
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


class SequenceSource(DataSource):
    """A source whose tasks lie in HDF5 files; subclasses say which, in `_open`."""

    def __init__(
        self,
        *,
        batch_size: int,
        in_memory: InMemory,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        split_seed: int,
        transforms: Transforms | None = None,
    ):
        self.batch_size = batch_size
        self.in_memory = in_memory
        self.limits: dict[str, int | None] = {
            "train": limit_train,
            "val": limit_val,
            "test": limit_test,
        }
        self.split_seed = split_seed
        self.augmentation = Augmentation(transforms)
        self._parts: Mapping[str, Mapping[Split, Sequence[Part]]] | None = None

    @abstractmethod
    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        """The parts of each task and split, making files first where that is needed."""

    @abstractmethod
    def _outputs(self) -> int:
        """Width of the readout for tasks with classes."""

    def _classes(self, split: store.Split) -> tuple[int, ...]:
        """Labels that may occur in a file: those that it declares, else those in it."""
        assert split.labels is not None
        return split.classes or tuple(np.unique(split.labels).tolist())

    def prepare(self) -> None:
        if self._parts is None:
            self._parts = {
                task: {split: self._limited(parts, split) for split, parts in splits.items()}
                for task, splits in self._open().items()
            }
            specs = [self.spec(task) for task in self.tasks] if self.augmentation else []
            problems = [p for spec in specs for p in self.augmentation.misfits(spec)]
            if problems:
                raise ConfigError(problems)

    def parts(self, task: str, split: Split) -> Sequence[Part]:
        """What a task uses for a split."""
        if task not in self.tasks:
            raise ConfigError(
                f"data: no task {task!r}; it has {', '.join(self.tasks)}."
                + nearest(task, self.tasks)
            )
        if split not in SPLITS:
            raise ConfigError(f"data: no split {split!r}; there are {', '.join(SPLITS)}.")
        self.prepare()
        assert self._parts is not None
        return self._parts[task][split]

    def spec(self, task: str) -> TaskSpec:
        every = [part for split in SPLITS for part in self.parts(task, split)]
        split = every[0].split
        target, outputs = _target(split)
        classes: set[int] = set()
        if target in ("class", "class_sequence"):
            outputs = self._outputs()
            for part in every:
                classes |= set(self._classes(part.split))
        timings = dict.fromkeys((part.split.frames, part.dt_ms) for part in every)
        return TaskSpec(
            task=task,
            input_shape=tuple(split.shape[2:]),
            timings=tuple(timings),
            target=target,
            outputs=outputs,
            classes=tuple(sorted(classes)),
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
    ) -> SequenceLoader:
        assert 0 <= rank < world_size
        size = self.batch_size if batch_size is None else batch_size
        if size < world_size:
            raise ConfigError(
                f"data.batch_size: got {size} for {world_size} processes; it is divided among "
                f"them, so give at least {world_size}."
            )
        return SequenceLoader(
            self.parts(task, split),
            batch_size=size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            in_memory=self.in_memory,
            augmentation=self.augmentation if split == "train" and shuffle else None,
        )

    def _limited(self, parts: list[Part], split: Split) -> list[Part]:
        """The first `limit_<split>` samples of a stratified order over all parts."""
        limit = self.limits[split]
        if limit is None or limit >= sum(len(part) for part in parts):
            return parts
        rng = np.random.default_rng([self.split_seed, 1])
        chosen = stratified_order(np.concatenate([part.strata for part in parts]), rng)[:limit]
        limited, start = [], 0
        for part in parts:
            mine = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            start += len(part)
            if len(mine):
                limited.append(part.select(mine))
        return limited


def open_splits(path: Path, scale: float | None = None) -> dict[str, store.Split]:
    """The splits of a file, with their values checked unless they are very large."""
    splits = store.read(path)
    for split in splits.values():
        if split.nbytes <= VERIFIED_BYTES:
            split.verify(scale)
    return splits


def all_rows(
    split: store.Split, *, rate_hz: float | None = None, scale: float | None = None
) -> Part:
    """A part with every sample of a split; timing and scale from the file unless given."""
    rate = rate_hz or split.rate_hz
    if rate is None:
        raise DataError(
            f"{split.path}: no attribute frame_rate (Hz). Set the key data.rate_hz, or write it."
        )
    factor = scale or split.scale or (1 / 255 if split.dtype == np.uint8 else 1.0)
    return Part(split, np.arange(split.shape[0]), rate_hz=rate, scale=factor)


def _target(split: store.Split) -> tuple[Any, int]:
    """Kind of target and, for values, its width."""
    if split.labels is None:
        return "value_sequence", int(np.prod(split.shape[2:]))
    if split.labels.dtype.kind == "i":
        return ("class", 0) if split.labels.ndim == 1 else ("class_sequence", 0)
    width = 1 if split.labels.ndim == 1 else split.labels.shape[-1]
    return ("value_sequence" if split.labels.ndim == 3 else "value"), width


def _inputs(part: Part, samples: store.Array) -> Batch:
    """Stored samples as a batch of float32 inputs, which stand in for its targets."""
    # by numpy, in this thread: on busy cores torch's threads wait for each other for milliseconds
    if part.scale == 1.0:
        values = samples.astype(np.float32, copy=False)
    else:
        values = np.multiply(samples, np.float32(part.scale), dtype=np.float32)
    inputs = torch.from_numpy(values)
    return Batch(inputs, inputs, part.dt_ms, part.split.held_frames)


def _augmented(
    batch: Batch, augmentation: Augmentation, numbers: store.Array, key: tuple[int, ...]
) -> Batch:
    """The batch with its samples changed; held frames are spread if that acts along time."""
    values, frames = batch.inputs.numpy(), batch.frames
    if frames is not None and augmentation.in_time:
        values, frames = np.repeat(values, frames, axis=1), None
    inputs = torch.from_numpy(augmentation(values, numbers, key, batch.dt_ms))
    return batch._replace(inputs=inputs, frames=frames)


def _with_targets(batch: Batch, part: Part, positions: store.Array) -> Batch:
    """The batch with int64 labels or float32 values as targets.

    Without labels the sequence is its own target, [B, T, features].
    """
    labels = part.split.labels
    if labels is None:
        return batch._replace(targets=batch.sequence().flatten(2))
    targets = torch.from_numpy(labels[part.rows[positions]])
    if targets.is_floating_point() and targets.ndim == 1:
        targets = targets.unsqueeze(1)
    return batch._replace(targets=targets)


def _fits(part: Part, world_size: int) -> bool:
    """Whether `in_memory: auto` reads this part into memory."""
    needed = len(part) * part.split.sample_bytes * world_size
    return needed <= MEMORY_SHARE * available_memory()


def available_memory() -> int:
    """Bytes that can be had without swapping, within the limits of a container."""
    available = int(psutil.virtual_memory().available)
    try:  # cgroup v2, which SLURM and Docker use; psutil sees the whole machine
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        return min(available, int(limit) - int(used))
    except (OSError, ValueError):
        return available
