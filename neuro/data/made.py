"""Cached HDF5 files that neuro generates from data: atomic writing, names by digest, and reuse.

Their layout is that of `store`, chunked by blocks of samples of about 1 MiB, uncompressed, with
checksums of each chunk and of the file's structure. A name contains a digest of all settings that
the content depends on, so that other settings use another file; a damaged file is made again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from neuro.data import layout, store
from neuro.errors import DataError
from neuro.io.files import full_message, is_disk_full

STALE_SECONDS = 3600.0  #: a half-written temporary file of this age belongs to a killed process


class Content(NamedTuple):
    """Content of a split for `write`; `blocks` are arrays of consecutive samples.

    `samples`: number of samples, if there are no labels that give it.
    """

    blocks: Iterable[store.Array]
    labels: store.Array | None
    frames: int | None = None
    scale: float = 1.0
    samples: int | None = None


def digest(shaping: Mapping[str, Any]) -> str:
    """A short hash of the settings that the content of a file depends on."""
    shaping = {"layout": store.VERSION, **shaping}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:12]


def made(
    path: Path,
    make: Callable[[], None],
    expected: Callable[[Mapping[str, store.Split]], str] = lambda splits: "",
) -> dict[str, store.Split]:
    """The splits of a file, which `make` writes if it is missing or damaged.

    `expected`: returns the problem of splits that were read, empty if there is none.
    """
    if path.exists():
        try:
            splits = layout.open_splits(path)
            if problem := expected(splits):
                raise DataError(f"{path}: {problem}")
            return splits
        except DataError as error:
            warnings.warn(f"Damaged cache file is made again. {error}", stacklevel=2)
    make()
    return layout.open_splits(path)


def write(
    path: Path,
    splits: Mapping[str, Content],
    *,
    generator: str,
    rate_hz: float | None = None,
    duration_ms: float | None = None,
    classes: Iterable[int] = (),
    symbols: int | None = None,
) -> None:
    """Write a file atomically. DataError if it cannot be written."""
    labels = list(classes)
    attributes = {
        "format": store.FORMAT,
        "version": store.VERSION,
        "frame_rate": rate_hz,
        "duration_ms": duration_ms,
        "classes": np.asarray(labels, dtype=np.int64) if labels else None,
        "symbols": symbols,
        "generator": generator,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, splits, {k: value for k, value in attributes.items() if value is not None})
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}). Choose another folder."
        ) from error


def _write(path: Path, splits: Mapping[str, Content], attributes: Mapping[str, Any]) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    storage = _Storage()
    try:
        with temporary.open("w+b", buffering=0) as storage.raw:
            try:
                # this version of the format has checksums of the file's structure
                with h5py.File(storage, "w", libver=("v110", "v110")) as file:
                    file.attrs.update(attributes)
                    for name, content in splits.items():
                        _write_split(file.create_group(name) if name else file, content, storage)
            finally:
                storage.check()  # the cause of what h5py raises, if it raises anything
            os.fsync(storage.raw.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if not is_disk_full(error):
            raise
        temporary.unlink(missing_ok=True)  # before the free space for the message is read
        advice = "Make room, or choose another folder (data.root)."
        raise DataError(f"{full_message(path, storage.expected)} {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)


class _Storage(io.RawIOBase):
    """A file for h5py that stores the first error of writing instead of raising it.

    HDF5 cannot close a file after a failed write, which causes a segmentation fault when Python
    exits (HDF5 1.14 on a full disk). Data that is written after an error is dropped.
    """

    raw: io.FileIO

    def __init__(self) -> None:
        super().__init__()
        self._error: OSError | None = None
        self.expected = 0  #: bytes of the splits that were begun

    def expect(self, size: int) -> None:
        """Count bytes that will be written; OSError if the disk has no room for them."""
        self.expected += size
        disk = os.fstatvfs(self.raw.fileno())
        if size > disk.f_bavail * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:  # any object with a buffer
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while len(left) and self._error is None:
                left = left[self.raw.write(left) or 0 :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.raw.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()

    def readinto(self, buffer: Any) -> int | None:
        return self.raw.readinto(buffer)


def _write_split(group: h5py.Group, content: Content, storage: _Storage) -> None:
    """Write the blocks and labels of a split into a group."""
    data = None
    total = content.samples if content.labels is None else len(content.labels)
    for block in content.blocks:
        if data is None:
            shape = block.shape[1:]
            rows = max(1, store.BLOCK_BYTES // max(1, math.prod(shape) * block.itemsize))
            if total is not None:  # a chunk is stored whole, however few samples it has
                rows = min(rows, total)
            data = group.create_dataset(
                "data",
                (0, *shape),
                block.dtype,
                chunks=(rows, *shape),
                maxshape=(None, *shape),
                fletcher32=True,
            )
            storage.expect((total or 0) * math.prod(shape) * block.itemsize)
            data.attrs["scale"] = content.scale
            if content.frames is not None:
                data.attrs["frames"] = content.frames
        end = len(data)
        data.resize(end + len(block), axis=0)
        data[end:] = block
        storage.check()
    assert data is not None, "a split is written with at least one block"
    assert total in (None, len(data))
    if content.labels is not None:
        group.create_dataset("labels", data=content.labels, fletcher32=True)
