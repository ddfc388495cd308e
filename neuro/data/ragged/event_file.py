"""HDF5 files of events in two layouts: of numbered units, and of the pixels of an event camera.

    file.h5  as of SHD and SSC (Cramer et al. 2020)   file.h5  attribute size = [height, width]
    ├── spikes                                        ├── events
    │   ├── times    [N] of floats: seconds           │   ├── t       [N] of integers: µs
    │   └── units    [N] of integers: channel         │   ├── x, y    [N] of integers: column, row
    ├── labels       [N] integers                     │   └── p       [N] of integers: 0 OFF, 1 ON
    └── extra        not read                         └── labels      [N] integers

Each entry of a dataset below `spikes` or `events` is a row of variable length, the events of one
sample sorted by time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from neuro.data.hdf5_file import child, opened, reading
from neuro.data.ragged.event_store import (
    MICROSECONDS,
    SECONDS,
    Pixels,
    Polarity,
    Sample,
    TimeUnit,
    Units,
    as_address,
    check_events,
)
from neuro.errors import DataError


class Layout(NamedTuple):
    """Names of the datasets of a file, with the types in which they are written."""

    times: tuple[str, str]
    address: dict[str, str]
    unit: TimeUnit


UNITS = Layout(("spikes/times", "f4"), {"spikes/units": "u2"}, SECONDS)
PIXELS = Layout(
    ("events/t", "i8"), {"events/x": "u2", "events/y": "u2", "events/p": "u1"}, MICROSECONDS
)


class EventFile:
    """The samples of a file of either layout, as a `Recording`.

    units, group and polarity: see `Units` and `Pixels`; `group` None is 5 units, or 1 pixel.
    """

    def __init__(
        self,
        path: Path,
        units: int = 700,
        group: int | None = None,
        polarity: Polarity = "separate",
    ):
        self.path = path
        self.where = str(path)
        with opened(path) as file, reading(self.where):
            self._layout = _layout(file, path)
            datasets = self._datasets(file)
            counts = {name: len(found) for name, found in datasets.items()}
            self.grid: Units | Pixels
            if self._layout is UNITS:
                self.grid = Units(units, group or 5)
            else:
                self.grid = Pixels(*_size(file, path), group or 1, polarity)
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise DataError(f"{path}: {listed}; expected the same number of samples.")
        self.unit = self._layout.unit
        self._count = counts["labels"]
        if not self._count:
            raise DataError(f"{path}: holds no samples.")

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Path, size and time of the file."""
        status = self.path.stat()
        return str(self.path.resolve()), status.st_size, status.st_mtime_ns

    def __len__(self) -> int:
        return self._count

    def samples(self) -> Iterator[Sample]:
        """Read all samples. DataError for damaged files."""
        with opened(self.path) as file, reading(self.where):
            times, *address, labels = self._datasets(file).values()
            for i, label in enumerate(np.asarray(labels[:], np.int64)):
                found = tuple(as_address(part[i]) for part in address)
                yield Sample(np.asarray(times[i], np.float64), found, int(label))

    def _datasets(self, file: h5py.File) -> dict[str, Any]:
        """Times, addresses and labels."""
        names = (self._layout.times[0], *self._layout.address, "labels")
        return {name: _dataset(file, name, self.path) for name in names}


def _layout(file: h5py.File, path: Path) -> Layout:
    """The layout whose group the file has; that of units for a file with neither."""
    return PIXELS if child(file, "events", f"{path}: ") is not None else UNITS


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    found = child(file, name, f"{path}: ")
    if not isinstance(found, h5py.Dataset) or found.ndim != 1:
        raise DataError(
            f"{path}: no dataset {name} with one entry for each sample; expected labels and "
            "spikes/times, spikes/units (the layout of SHD and SSC), or events/t, events/x, "
            "events/y, events/p (2-D events)."
        )
    return found


def _size(file: h5py.File, path: Path) -> tuple[int, int]:
    """Height and width of the sensor."""
    given = np.asarray(file.attrs.get("size", []))
    if given.shape != (2,) or given.dtype.kind not in "iu" or given.min() < 1:
        raise DataError(
            f"{path}: attribute size is {given.tolist() or 'missing'}; expected the [height, "
            "width] of the sensor in pixels."
        )
    return int(given[0]), int(given[1])


def is_event_file(path: Path) -> bool:
    """Whether an HDF5 file has the datasets of a layout of events."""
    with opened(path) as file:
        return any(
            all(name in file for name in (layout.times[0], *layout.address, "labels"))
            for layout in (UNITS, PIXELS)
        )


def has_pixels(path: Path) -> bool:
    """Whether an event file has 2-D events, not numbered units."""
    with opened(path) as file:
        return _layout(file, path) is PIXELS


def write_events(
    path: Path, samples: Iterable[Sample], count: int, size: tuple[int, int] | None = None
) -> None:
    """Write `count` samples atomically; `size` is that of a sensor of pixels, None for units.

    DataError if the file cannot be written.
    """
    layout = UNITS if size is None else PIXELS
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            if size is not None:
                file.attrs["size"] = size
            kinds = [layout.times, *layout.address.items()]
            columns = [
                file.create_dataset(name, (count,), h5py.vlen_dtype(np.dtype(kind)))
                for name, kind in kinds
            ]
            labels = file.create_dataset("labels", (count,), "i8")
            for i, sample in enumerate(samples):
                parts = (sample.times, *sample.address)
                for column, part, (_, kind) in zip(columns, parts, kinds, strict=True):
                    column[i] = part.astype(kind)
                labels[i] = sample.label
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):  # such as a folder that is a file
            temporary.unlink()


def described(path: Path) -> Iterator[str]:
    """Lines on the content of an event file. DataError for one that cannot be used."""
    file = EventFile(path)
    counts, labels = [], []
    latest, highest = 0.0, 0
    for i, sample in enumerate(file.samples()):
        check_events(sample, file.unit, f"{path}: sample {i}")
        if isinstance(file.grid, Pixels):
            file.grid.places(sample.address, f"{path}: sample {i}")
        counts.append(len(sample.times))
        labels.append(sample.label)
        latest = max(latest, sample.times[-1])
        highest = max(highest, int(sample.address[0].max()))
    yield f"{len(counts)} samples of {min(counts)} to {max(counts)} events"
    if isinstance(file.grid, Pixels):
        where = f"sensor of {file.grid.height} x {file.grid.width} pixels, two polarities"
    else:
        where = f"units 0 to {highest}"
    yield f"{where}; times up to {latest:g} {file.unit.symbol}"
    found = zip(*np.unique(labels, return_counts=True), strict=True)
    yield "labels: " + ", ".join(f"{label}: {count}" for label, count in found)
