"""Parts of files: selection of samples, reading, and conversion to inputs.

A part holds the samples of one file that a task uses, at one frame rate. It is read into memory or
lazily; `loading` makes epochs and batches of parts.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np

from neuro.data import store
from neuro.errors import DataError


class Encoding(NamedTuple):
    """Conversion of stored values to inputs: `x * scale + offset`, or symbols below `symbols`."""

    scale: float = 1.0
    offset: float = 0.0
    symbols: int | None = None
    one_hot: bool = True  #: symbols as vectors, else as integers

    def __call__(self, samples: store.Array) -> store.Array:
        """Float32 inputs of stored samples `[B, T, ...]`.

        Symbols give float32 `[B, T, symbols]`, or int64 `[B, T]` unless `one_hot`. ValueError for
        values that are not symbols.
        """
        if self.symbols is not None and self.one_hot:
            return one_hot(samples, self.symbols)
        if self.symbols is not None:
            check_symbols(samples, self.symbols)
            tokens: store.Array = samples.reshape(samples.shape[:2]).astype(np.int64)
            return tokens
        # by numpy in this thread: on busy cores the synchronisation of torch's threads takes
        # milliseconds
        if self.scale == 1.0 and self.offset == 0.0:
            return samples.astype(np.float32, copy=False)
        values: store.Array = np.multiply(samples, np.float32(self.scale), dtype=np.float32)
        if self.offset:
            values += np.float32(self.offset)
        return values


def one_hot(symbols: store.Array, count: int) -> store.Array:
    """Float32 `[B, T, count]` of symbols `[B, T]` or `[B, T, 1]`; ValueError for others."""
    symbols = symbols.reshape(symbols.shape[:2])
    check_symbols(symbols, count)
    encoded: store.Array = np.zeros((*symbols.shape, count), np.float32)
    np.put_along_axis(encoded, symbols[..., None].astype(np.int64), 1.0, axis=-1)
    return encoded


def check_symbols(symbols: store.Array, count: int) -> None:
    """ValueError for values other than 0 to `count` - 1."""
    if symbols.size and (symbols.min() < 0 or symbols.max() >= count):
        wrong = symbols[(symbols < 0) | (symbols >= count)][0]
        raise ValueError(f"symbol {wrong}; expected 0 to {count - 1}")


class Part:
    """Some samples of one file's split, at one frame rate.

    `rows` are their sorted positions in the file. Two further parts may belong to it, with as many
    samples in the same order: `images`, targets that are read like the data, and `teacher`, a
    teacher's trajectories.
    """

    teacher: Part | None = None

    def __init__(
        self, split: store.Split, rows: store.Array, *, rate_hz: float | None, encoding: Encoding
    ):
        self.split = split
        self.rows = rows
        self.rate_hz = rate_hz
        self.encoding = encoding
        self.images: Part | None = None
        if split.images is not None:
            self.images = Part(split.images, rows, rate_hz=None, encoding=Encoding())
        self._memory: store.Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dt_ms(self) -> float | None:
        return None if self.rate_hz is None else 1000.0 / self.rate_hz

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the inputs of one time step."""
        symbols = self.encoding.symbols
        if symbols is None:
            return self.split.shape[2:]
        return (symbols,) if self.encoding.one_hot else ()

    @property
    def labels(self) -> store.Array | None:
        """Labels of these samples."""
        return None if self.split.labels is None else self.split.labels[self.rows]

    @property
    def strata(self) -> store.Array:
        """Labels for stratified division; the same for all samples without classes."""
        labels = self.labels
        if labels is None or labels.ndim != 1 or labels.dtype.kind != "i":
            return np.zeros(len(self), np.int64)
        return labels

    @property
    def sample_bytes(self) -> int:
        """Bytes of a stored sample, with its target image and the teacher's trajectory."""
        beside = (part.sample_bytes for part in (self.images, self.teacher) if part is not None)
        return self.split.sample_bytes + sum(beside)

    def select(self, positions: store.Array) -> Part:
        """The part with the samples at some positions."""
        rows = np.sort(self.rows[positions])
        return Part(self.split, rows, rate_hz=self.rate_hz, encoding=self.encoding)

    def inputs(self, samples: store.Array) -> store.Array:
        """Stored samples as float32 inputs `[B, T, ...]`. DataError for unknown symbols."""
        with self._knowing_symbols():
            return self.encoding(samples)

    def check_symbols(self) -> None:
        """Read all of the part; DataError for unknown symbols."""
        with self._knowing_symbols():
            for piece in self.pieces():
                check_symbols(piece, self.encoding.symbols or 0)

    @contextmanager
    def _knowing_symbols(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise DataError(
                f"{self.split.where}: {error}. The attribute `symbols`, or else the training "
                "split, says how many there are; data.symbols gives another number."
            ) from error

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
    def reader(self, in_memory: bool, window: int | None = None) -> Iterator[Rows]:
        """A reader of samples by position, from memory or from the file.

        `window`: number of blocks that are kept in memory; None: as many as `order` shuffles
        together.
        """
        if in_memory and self._memory is None:
            self._memory = self._read_all()
        if self._memory is not None:
            yield InMemoryRows(self._memory)
            return
        with self.split.blocks() as blocks:
            yield LazyRows(self, blocks, self._window() if window is None else window)

    @contextmanager
    def reader_beside(self, other: Part | None, in_memory: bool) -> Iterator[Rows | None]:
        """A reader of images or trajectories by positions of samples; None without any."""
        if other is None:
            yield None
            return
        # keep the images or trajectories of all blocks of samples in the window
        blocks = math.ceil(self.split.block / other.split.block) + 1
        with other.reader(in_memory, self._window() * blocks) as rows:
            yield rows

    def pieces(self) -> Iterator[store.Array]:
        """All samples of the part as stored, in order, each block of the file read once."""
        numbers, starts = np.unique(self.rows // self.split.block, return_index=True)
        with self.split.blocks() as blocks:
            for number, start, end in zip(
                numbers, starts, [*starts[1:], len(self.rows)], strict=True
            ):
                block = blocks.read(int(number))
                rows = self.rows[start:end] - number * self.split.block
                yield block if len(rows) == len(block) else block[rows]

    def _window(self) -> int:
        """Number of blocks that are shuffled together and kept in memory."""
        return max(1, store.WINDOW_BYTES // (self.split.block * self.sample_bytes))

    def _read_all(self) -> store.Array:
        samples = np.empty((len(self.rows), *self.split.shape[1:]), self.split.dtype)
        start = 0
        for piece in self.pieces():
            samples[start : start + len(piece)] = piece
            start += len(piece)
        return samples


class Rows(Protocol):
    """Samples by position."""

    def gather(self, positions: store.Array) -> store.Array:
        """A fresh array of the samples at `positions`, as stored."""


class InMemoryRows:
    """Samples of a part in memory."""

    def __init__(self, samples: store.Array):
        self._samples = samples

    def gather(self, positions: store.Array) -> store.Array:
        if len(positions) and np.array_equal(
            positions, np.arange(positions[0], positions[0] + len(positions))
        ):  # consecutive, as in evaluation: a slice is several times as fast
            return self._samples[positions[0] : positions[0] + len(positions)].copy()
        return self._samples[positions]


class LazyRows:
    """Samples of a part on disk. The last used blocks, `window` of them, are kept in memory."""

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


def stratified_order(labels: store.Array, rng: np.random.Generator) -> store.Array:
    """A random permutation in which every prefix has about the same proportions of classes."""
    shuffled = rng.permutation(len(labels))
    key = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        key[members] = (np.arange(len(members)) + 0.5) / len(members)
    order: store.Array = np.lexsort((rng.random(len(labels)), key))
    return order


def all_rows(
    split: store.Split, *, rate_hz: float | None = None, scale: float | None = None
) -> Part:
    """A part with every sample of a split; timing and scale from the file unless given.

    Without a frame rate its steps have no unit of time.
    """
    rows, encoding = np.arange(split.shape[0]), Encoding(scale or split.factor)
    return Part(split, rows, rate_hz=rate_hz or split.rate_hz, encoding=encoding)
