"""One HDF5 layout for sequences: checked when it is opened, read whole or in blocks.

    file.h5                 attributes: format="neuro-sequence", version, frame_rate (Hz),
    │                       duration_ms, classes (labels that may occur), generator (free text),
    │                       symbols (how many there are)
    ├── train               any of train, val and test; or `data` and `labels` at the root
    │   ├── data            [N, T, ...] uint8, bool or float; or [N, 1, ...] with attribute
    │   │                   `frames`, the number of steps for which that one frame is held;
    │   │                   attribute `scale`: what values are multiplied by when they are read
    │   │                   (default 1/255 for uint8, which makes images lie in [0, 1], else 1);
    │   │                   or symbols, [N, T] or [N, T, 1] of any integers
    │   └── labels          optional: int or bool (classes) or float (values) of any shape [N, ...],
    │                       such as [N], [N, T] or [N, height, width]
    ├── val  ...
    └── test ...

Only `data` is required; other programs' files are welcome. This module needs neither torch nor
the rest of neuro, and every DataError says which file, what was found and what was expected.
Files of this layout are written by `made`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from neuro.errors import DataError

Array: TypeAlias = np.ndarray[Any, Any]

FORMAT = "neuro-sequence"
VERSION = 1
SPLIT_NAMES = ("train", "val", "test")
#: name of the only split of a file with `data` at its root
ROOT = ""
#: a label of a step that no loss and no score counts
NO_LABEL = -100

BLOCK_BYTES = 1 << 20  #: size of a chunk that we write, and of one read
WINDOW_BYTES = 128 << 20  #: most that reading lazily keeps in memory; what is shuffled together
#: splits up to this size are read once when they are opened, to find damage and NaN early
VERIFIED_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Split:
    """What is known of one split of one file without reading its data.

    `labels` are in memory, but for images (floats `[N, ...]` that are neither values per sample
    nor per step), which are read like the data: `images` describes them.
    """

    path: Path
    name: str
    shape: tuple[int, ...]  #: of the stored data, [N, T or 1, ...]
    dtype: np.dtype[Any]
    block: int  #: samples that are read at once, a whole number of chunks
    labels: Array | None  #: int64 or float32
    held_frames: int | None
    scale: float | None  #: None where the file does not say
    rate_hz: float | None
    duration_ms: float | None
    classes: tuple[int, ...] | None
    symbols: int | None = None  #: as the file says
    images: Split | None = None
    dataset: str = "data"  #: what it describes

    @property
    def frames(self) -> int:
        """Time steps of a sample."""
        return self.held_frames or self.shape[1]

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample as it is stored."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the split as it is stored."""
        return self.shape[0] * self.sample_bytes

    @property
    def factor(self) -> float:
        """What stored values are multiplied by unless a key says otherwise."""
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
    def fingerprint(self) -> tuple[str, str, int, int]:
        """What tells this split from others and from what its file held before it was changed."""
        status = self.path.stat()
        return str(self.path.resolve()), self.name, status.st_size, status.st_mtime_ns

    @property
    def where(self) -> str:
        """The file and dataset, for messages."""
        return f"{self.path}: {self.name + '/' if self.name else ''}{self.dataset}"

    @contextmanager
    def blocks(self) -> Iterator[BlockReader]:
        """Open the file for reading blocks."""
        with _open(self.path) as file:
            yield BlockReader(self, file[f"{self.name}/{self.dataset}"])

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
        try:
            block: Array = self._dataset[start : start + split.block]
        except OSError as error:
            raise DataError(f"{split.where}: damaged or truncated ({error}).") from error
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            finite = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            raise DataError(
                f"{split.where}: NaN or infinite values, first in sample "
                f"{start + int(np.argmin(finite))}; expected finite numbers."
            )
        return block


def open_splits(path: Path, scale: float | None = None) -> dict[str, Split]:
    """The splits of a file, with their values checked unless they are very large."""
    splits = read(path)
    for split in splits.values():
        if split.nbytes <= VERIFIED_BYTES:
            split.verify(scale)
    return splits


def read(path: Path) -> dict[str, Split]:
    """The splits of a file, checked except for the values of `data`; {ROOT: ...} without groups."""
    with _open(path) as file:
        if "data" in file and isinstance(file["data"], h5py.Dataset):
            return {ROOT: _read_split(path, file, ROOT)}
        found = [
            name for name in SPLIT_NAMES if name in file and isinstance(file[name], h5py.Group)
        ]
        if not found:
            raise DataError(
                f"{path}: holds {_holdings(file)}; expected groups train, val, test with `data` "
                "and `labels`, or `data` and `labels` at the root."
            )
        return {name: _read_split(path, file, name) for name in found}


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; expected an HDF5 file.")
    try:
        # files are replaced, never changed in place; network disks often cannot lock
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        if not h5py.is_hdf5(path):
            raise DataError(f"{path}: {_beginning(path)}; expected an HDF5 file.") from error
        raise DataError(f"{path}: damaged or truncated HDF5 file ({error}).") from error
    with file:
        yield file


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return f"not an HDF5 file (begins with {handle.read(8)!r})"
    except OSError as error:
        return f"cannot be read ({error})"


def _read_split(path: Path, file: h5py.File, name: str) -> Split:
    where = f"{path}: {name + '/' if name else ''}"
    group = file[name] if name else file
    data = group.get("data")
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"{where}data is missing; {name or 'the file'} holds {_holdings(group)}.")
    integers = data.dtype.kind in "iu"
    if data.dtype != np.bool_ and data.dtype.kind not in "fiu":
        raise DataError(
            f"{where}data has dtype {data.dtype}; expected uint8 (images), bool (spikes), float or "
            "integers (symbols)."
        )
    if data.ndim < (2 if integers else 3) or 0 in data.shape:
        raise DataError(
            f"{where}data has shape {data.shape}; expected [samples, time, features, ...], "
            "or [samples, time] for integers that are symbols; none of them 0."
        )
    if integers and data.dtype != np.uint8 and math.prod(data.shape[2:]) > 1:
        raise DataError(
            f"{where}data has dtype {data.dtype} and shape {data.shape}; expected uint8 (images), "
            "bool (spikes) or float for several features, and [samples, time] for symbols."
        )
    try:
        held = _number(data.attrs, "frames", where + "data")
        scale = _number(data.attrs, "scale", where + "data")
        rate = _number(file.attrs, "frame_rate", f"{path}")
        duration = _number(file.attrs, "duration_ms", f"{path}")
        version = _number(file.attrs, "version", f"{path}")
        symbols = _number(file.attrs, "symbols", f"{path}")
        classes = file.attrs.get("classes")
        labels = _labels(group, where, data.shape)
    except OSError as error:
        raise DataError(f"{where}labels or attributes are damaged ({error}).") from error
    if version is not None and file.attrs.get("format") == FORMAT and version > VERSION:
        raise DataError(f"{path}: layout version {version:g}; this program reads up to {VERSION}.")
    if held is not None and data.shape[1] != 1:
        raise DataError(
            f"{where}data has attribute frames = {held:g} (one frame, held), but {data.shape[1]} "
            "frames are stored; expected shape [samples, 1, ...]."
        )
    if classes is not None:
        classes = np.atleast_1d(classes)
        if classes.dtype.kind not in "iu":
            raise DataError(f"{path}: attribute classes is {classes!r}; expected integers.")
    sample_bytes = math.prod(data.shape[1:]) * data.dtype.itemsize
    chunk = data.chunks[0] if data.chunks else 1
    split = Split(
        path=path,
        name=name,
        shape=data.shape,
        dtype=data.dtype,
        block=chunk * max(1, BLOCK_BYTES // (chunk * sample_bytes)),
        labels=None,
        held_frames=None if held is None else int(held),
        scale=scale,
        rate_hz=rate,
        duration_ms=duration,
        classes=None if classes is None else tuple(int(c) for c in classes),
        symbols=None if symbols is None else int(symbols),
    )
    if labels is None:
        return split
    per_step = labels.ndim == 3 and labels.shape[1] == split.frames
    if labels.dtype.kind == "f" and labels.ndim > 2 and not per_step:
        # in blocks of the same samples as the data's, so that both are read once
        images = replace(split, shape=labels.shape, dtype=labels.dtype, dataset="labels")
        return replace(split, images=images)
    try:
        values: Array = labels[()]
    except OSError as error:
        raise DataError(f"{where}labels are damaged ({error}).") from error
    if labels.dtype.kind != "f":
        return replace(split, labels=values.astype(np.int64))
    if not np.isfinite(values).all():
        raise DataError(f"{where}labels hold NaN or infinite values; expected finite numbers.")
    return replace(split, labels=values.astype(np.float32))


def _labels(group: h5py.Group, where: str, shape: tuple[int, ...]) -> h5py.Dataset | None:
    """The dataset of labels, if there is one, checked without being read."""
    dataset = group.get("labels")
    if dataset is None:
        return None
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
        kind = dataset.dtype if isinstance(dataset, h5py.Dataset) else "a group"
        raise DataError(
            f"{where}labels: {kind}; expected a dataset of integers, booleans or floats."
        )
    if dataset.shape[:1] != shape[:1] or 0 in dataset.shape:
        raise DataError(
            f"{where}data has {shape[0]} samples but labels have shape {dataset.shape}; expected "
            "one label per sample (is the file truncated?)."
        )
    return dataset


def _number(attributes: Any, name: str, where: str) -> float | None:
    """A numeric attribute above 0, or None where it is absent."""
    if name not in attributes:
        return None
    value = np.asarray(attributes[name])
    if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < float(value.item()) < math.inf:
        raise DataError(
            f"{where}: attribute {name} is {attributes[name]!r}; expected a number > 0."
        )
    return float(value.item())


def _holdings(group: h5py.Group) -> str:
    """A short list of what a group holds, one level down."""
    items = []
    for name, item in list(group.items())[:10]:
        if isinstance(item, h5py.Dataset):
            items.append(f"{name} {item.dtype}{list(item.shape)}")
        elif isinstance(item, h5py.Group):
            items.append(f"{name}/ ({', '.join(list(item)[:5]) or 'empty'})")
    more = ", ..." if len(group) > 10 else ""
    return ", ".join(items) + more if items else "nothing"
