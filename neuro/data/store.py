"""The HDF5 layout of sequences, and metadata of splits, which are read in blocks.

    file.h5                 attributes: format="neuro-sequence", version, frame_rate (Hz),
    │                       duration_ms, classes (labels that may occur), generator (free text),
    │                       symbols (how many there are)
    ├── train               any of train, val and test; or `data` and `labels` at the root
    │   ├── data            [N, T, ...] uint8, bool or float; or [N, 1, ...] with attribute
    │   │                   `frames`, the number of steps for which that one frame is held;
    │   │                   attribute `scale`: factor of the values when they are read (default
    │   │                   1/255 for uint8, so that images are in [0, 1], else 1);
    │   │                   or symbols, [N, T] or [N, T, 1] of any integers
    │   └── labels          optional: int or bool (classes) or float (values) of any shape [N, ...],
    │                       such as [N], [N, T] or [N, height, width]
    ├── val  ...
    └── test ...

Only `data` is required, so that files of other programs can be used. Every DataError names the
file, what was found and what was expected. Files are opened by `hdf5_file`, checked against the
layout by `layout` and written by `made`. None of these modules needs torch or other parts of neuro.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from neuro.data.hdf5_file import check_stored, child, opened, reading
from neuro.errors import DataError

Array: TypeAlias = np.ndarray[Any, Any]

FORMAT = "neuro-sequence"
VERSION = 1
SPLIT_NAMES = ("train", "val", "test")
#: name of the only split of a file with `data` at its root
ROOT = ""
#: the label of a step or sample without a label, which losses and metrics leave out
NO_LABEL = -100

BLOCK_BYTES = 1 << 20  #: size of a chunk in generated files, and of one read
WINDOW_BYTES = 128 << 20  #: largest memory of lazy reading; samples in it are shuffled together
#: splits up to this size are read once when they are opened, to find damage and NaN early
VERIFIED_BYTES = 1 << 30
#: inputs and values are float32
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Split:
    """Metadata of one split of a file, known without reading its data.

    `labels` are in memory, except images (floats `[N, ...]` that are neither values per sample nor
    per step), which are read like the data: `images` describes them.
    """

    path: Path
    name: str
    shape: tuple[int, ...]  #: of the stored data, [N, T or 1, ...]
    dtype: np.dtype[Any]
    block: int  #: samples that are read at once, a whole number of chunks
    labels: Array | None  #: int64 or float32
    held_frames: int | None
    scale: float | None  #: of the attribute
    rate_hz: float | None
    duration_ms: float | None
    classes: tuple[int, ...] | None
    symbols: int | None = None  #: of the attribute
    images: Split | None = None
    dataset: str = "data"  #: the dataset that it describes
    sources: tuple[Path, ...] = ()  #: other files that hold some of the values

    @property
    def frames(self) -> int:
        """Time steps of a sample."""
        return self.held_frames or self.shape[1]

    @property
    def sample_bytes(self) -> int:
        """Bytes of a stored sample."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the stored split."""
        return self.shape[0] * self.sample_bytes

    @property
    def factor(self) -> float:
        """Factor of stored values, unless a config key sets another one."""
        return self.scale or (1 / 255 if self.dtype == np.uint8 else 1.0)

    @property
    def may_be_symbols(self) -> bool:
        """Whether data are integers `[N, T]` or `[N, T, 1]`."""
        return self.dtype.kind in "iu" and math.prod(self.shape[2:]) == 1

    @property
    def may_be_values(self) -> bool:
        """Whether data are bytes, booleans or floats `[N, T, ...]`."""
        return len(self.shape) > 2 and (self.dtype == np.uint8 or self.dtype.kind not in "iu")

    @property
    def fingerprint(self) -> tuple[str | int, ...]:
        """Identity of the split and its file, which changes with the file's content."""
        found: list[str | int] = []
        for path in (self.path, *self.sources):
            status = path.stat()
            name = [self.name] if path is self.path else []
            found += [str(path.resolve()), *name, status.st_size, status.st_mtime_ns]
        return tuple(found)

    @property
    def where(self) -> str:
        """The file and dataset, for messages."""
        return f"{self.path}: {self.name + '/' if self.name else ''}{self.dataset}"

    @contextmanager
    def blocks(self) -> Iterator[BlockReader]:
        """Open the file for reading blocks."""
        with opened(self.path) as file:
            dataset = child(file, f"{self.name}/{self.dataset}".lstrip("/"), f"{self.path}: ")
            if not isinstance(dataset, h5py.Dataset) or dataset.shape != self.shape:
                raise DataError(f"{self.where}: has changed since the file was opened.")
            if self.sources:  # of which one may have been removed since then
                check_stored(dataset, self.where)
            yield BlockReader(self, dataset)

    def verify(self, scale: float | None = None) -> None:
        """Read everything once; DataError for damage, NaN, or uint8 whose scale nobody gave."""
        scale = scale or self.scale
        highest = 0
        with self.blocks() as reader:
            for number in range(math.ceil(self.shape[0] / self.block)):
                block = reader.read(number)
                if self.dtype == np.uint8 and highest <= 1:
                    highest = max(highest, int(block.max(initial=0)))
        if self.images is not None and self.images.nbytes <= VERIFIED_BYTES:
            self.images.verify()
        if self.dtype == np.uint8 and scale is None and highest == 1:
            raise DataError(
                f"{self.where}: uint8 values of 0 and 1 only, and no attribute `scale`. As images "
                "they would be divided by 255. Expected scale = 1 for spikes, or 1/255."
            )


class BlockReader:
    """Reads blocks of an open split, checking values as they come."""

    def __init__(self, split: Split, dataset: h5py.Dataset):
        self._split = split
        self._dataset = dataset

    def read(self, number: int) -> Array:
        """The samples of block `number`, as stored."""
        split, start = self._split, number * self._split.block
        with reading(split.where):
            block: Array = self._dataset[start : start + split.block]
        check_values(block, split.where, start)
        return block


def check_values(values: Array, where: str, first: int = 0) -> None:
    """DataError unless values of samples from number `first` on are finite as float32."""
    if values.dtype.kind != "f":
        return
    limit = _LARGEST if values.itemsize > 4 else np.inf
    # NaN compares as False
    wrong = ~(np.abs(values) <= limit) if values.itemsize > 4 else ~np.isfinite(values)
    if not wrong.any():
        return
    place = np.argwhere(wrong)[0]
    value = values[tuple(place)]
    problem = "NaN or infinite values"
    if np.isfinite(value):
        problem = f"{value:g} is beyond float32 (up to {limit:.3g})"
    raise DataError(
        f"{where}: {problem}, first in sample {first + int(place[0])}; expected finite numbers."
    )
