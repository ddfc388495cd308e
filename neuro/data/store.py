"""One HDF5 layout for sequences: written once, checked when it is opened, read whole or in blocks.

    file.h5                 attributes: format="neuro-sequence", version, frame_rate (Hz),
    │                       duration_ms, classes (labels that may occur), generator (free text)
    ├── train               any of train, val and test; or `data` and `labels` at the root
    │   ├── data            [N, T, ...] uint8, bool or float; or [N, 1, ...] with attribute
    │   │                   `frames`, the number of steps for which that one frame is held;
    │   │                   attribute `scale`: what values are multiplied by when they are read
    │   │                   (default 1/255 for uint8, which makes images lie in [0, 1], else 1)
    │   └── labels          optional: [N] or [N, T] int, [N], [N, K] or [N, T, K] float
    ├── val  ...
    └── test ...

Data are chunked by blocks of samples of about 1 MiB, uncompressed, with a checksum per chunk.
Only `data` is required; other programs' files are welcome. This module needs neither torch nor
the rest of neuro, and every DataError says which file, what was found and what was expected.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np

from neuro.errors import DataError

Array: TypeAlias = np.ndarray[Any, Any]

FORMAT = "neuro-sequence"
VERSION = 1
SPLIT_NAMES = ("train", "val", "test")
#: name of the only split of a file with `data` at its root
ROOT = ""

BLOCK_BYTES = 1 << 20  #: size of a chunk that we write, and of one read
WINDOW_BYTES = 128 << 20  #: most that reading lazily keeps in memory; what is shuffled together
STALE_SECONDS = 3600.0  #: a half-written temporary file of this age belongs to a killed process


class Content(NamedTuple):
    """What `write` puts into one split; `blocks` are arrays of consecutive samples."""

    blocks: Iterable[Array]
    labels: Array | None
    frames: int | None = None
    scale: float = 1.0


def write(
    path: Path,
    splits: Mapping[str, Content],
    *,
    rate_hz: float,
    duration_ms: float,
    classes: Iterable[int],
    generator: str,
) -> None:
    """Write a file atomically: it appears under its name complete, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, splits, rate_hz, duration_ms, classes, generator)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error}). Choose another folder or make room."
        ) from error


def _write(
    path: Path,
    splits: Mapping[str, Content],
    rate_hz: float,
    duration_ms: float,
    classes: Iterable[int],
    generator: str,
) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["version"] = VERSION
            file.attrs["frame_rate"] = float(rate_hz)
            file.attrs["duration_ms"] = float(duration_ms)
            file.attrs["classes"] = np.asarray(list(classes), dtype=np.int64)
            file.attrs["generator"] = generator
            for name, content in splits.items():
                _write_split(file.create_group(name), content)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_split(group: h5py.Group, content: Content) -> None:
    data = None
    for block in content.blocks:
        if data is None:
            shape = block.shape[1:]
            rows = max(1, BLOCK_BYTES // max(1, math.prod(shape) * block.itemsize))
            if content.labels is not None:  # a chunk is stored whole, however few samples it has
                rows = min(rows, len(content.labels))
            data = group.create_dataset(
                "data", (0, *shape), block.dtype, chunks=(rows, *shape),
                maxshape=(None, *shape), fletcher32=True,
            )  # fmt: skip
            data.attrs["scale"] = content.scale
            if content.frames is not None:
                data.attrs["frames"] = content.frames
        end = len(data)
        data.resize(end + len(block), axis=0)
        data[end:] = block
    assert data is not None, "a split is written with at least one block"
    if content.labels is not None:
        assert len(content.labels) == len(data)
        group.create_dataset("labels", data=content.labels)


@dataclass(frozen=True, eq=False)
class Split:
    """What is known of one split of one file without reading its data."""

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
    def where(self) -> str:
        """The file and dataset, for messages."""
        return f"{self.path}: {self.name + '/' if self.name else ''}data"

    @contextmanager
    def blocks(self) -> Iterator[BlockReader]:
        """Open the file for reading blocks."""
        with _open(self.path) as file:
            yield BlockReader(self, file[f"{self.name}/data"])

    def verify(self, scale: float | None = None) -> None:
        """Read everything once; DataError for damage, NaN, or uint8 whose scale nobody gave."""
        scale = scale or self.scale
        highest = 0
        with self.blocks() as reader:
            for number in range(math.ceil(self.shape[0] / self.block)):
                block = reader.read(number)
                if self.dtype == np.uint8 and highest <= 1:
                    highest = max(highest, int(block.max(initial=0)))
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
    if data.dtype not in (np.uint8, np.bool_) and data.dtype.kind != "f":
        raise DataError(
            f"{where}data has dtype {data.dtype}; expected uint8 (images), bool (spikes) or float."
        )
    if data.ndim < 3 or 0 in data.shape:
        raise DataError(
            f"{where}data has shape {data.shape}; expected [samples, time, features, ...], "
            "none of them 0."
        )
    try:
        held = _number(data.attrs, "frames", where + "data")
        scale = _number(data.attrs, "scale", where + "data")
        rate = _number(file.attrs, "frame_rate", f"{path}")
        duration = _number(file.attrs, "duration_ms", f"{path}")
        version = _number(file.attrs, "version", f"{path}")
        classes = file.attrs.get("classes")
        labels = _read_labels(group, where, data.shape, int(held) if held else None)
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
    return Split(
        path=path,
        name=name,
        shape=data.shape,
        dtype=data.dtype,
        block=chunk * max(1, BLOCK_BYTES // (chunk * sample_bytes)),
        labels=labels,
        held_frames=None if held is None else int(held),
        scale=scale,
        rate_hz=rate,
        duration_ms=duration,
        classes=None if classes is None else tuple(int(c) for c in classes),
    )


def _read_labels(
    group: h5py.Group, where: str, shape: tuple[int, ...], held: int | None
) -> Array | None:
    dataset = group.get("labels")
    if dataset is None:
        return None
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
        kind = dataset.dtype if isinstance(dataset, h5py.Dataset) else "a group"
        raise DataError(f"{where}labels: {kind}; expected a dataset of integers or floats.")
    if dataset.shape[:1] != shape[:1]:
        raise DataError(
            f"{where}data has {shape[0]} samples but labels have shape {dataset.shape}; expected "
            "one label per sample (is the file truncated?)."
        )
    frames = held or shape[1]
    integer = dataset.dtype.kind in "iu"
    per_step = dataset.ndim == (2 if integer else 3)
    if dataset.ndim > (2 if integer else 3) or (per_step and dataset.shape[1] != frames):
        expected = "[N] or [N, T]" if integer else "[N], [N, K] or [N, T, K]"
        raise DataError(
            f"{where}labels are {dataset.dtype} of shape {dataset.shape}; expected {expected} "
            f"with N = {shape[0]}, T = {frames}."
        )
    labels: Array = dataset[()]
    if integer:
        return labels.astype(np.int64)
    if not np.isfinite(labels).all():
        raise DataError(f"{where}labels hold NaN or infinite values; expected finite numbers.")
    return labels.astype(np.float32)


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
