"""Spikes in HDF5 files with the layout of SHD and SSC (Cramer et al. 2020), binned into steps.

    file.h5
    ├── spikes
    │   ├── times     [N] of variable-length floats: seconds
    │   └── units     [N] of variable-length integers: input channel of each spike
    ├── labels        [N] integers
    └── extra         not read

A file is read once, sample by sample, and its spikes are stored as (step, channel) pairs in arrays
that are mapped into memory: `<root>/events-<digest>/`, named after the file and what shapes them.
Sequences of floats are made when a batch is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from neuro.data.hdf5_file import child, opened, reading
from neuro.data.store import Array
from neuro.errors import DataError
from neuro.runtime.memory import available_memory

#: part of every digest; to be raised when equal settings give other arrays than before
RECIPE = 1
ARRAYS = ("steps", "channels", "bounds", "lengths", "labels")


class Binning(NamedTuple):
    """How spikes become sequences `[T, channels]`.

    - `units`: input channels of the file, of which each `group` neighbours become one channel
    - `dt_ms`: the time step
    - `duration_ms`: of every sequence, later spikes being left out; None: each ends with its last
    - `binary`: at most one spike per step and channel, else their number
    """

    units: int
    dt_ms: float
    duration_ms: float | None = None
    group: int = 1
    binary: bool = True

    @property
    def channels(self) -> int:
        """Channels of a sequence."""
        return -(-self.units // self.group)


class Events:
    """Sequences of an event file."""

    def __init__(self, path: Path, binning: Binning, root: Path):
        folder = root / f"events-{_digest(path, binning)}"
        if not folder.is_dir():
            _convert(path, binning, folder)
        self._binning = binning
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        self._steps, self._channels = arrays["steps"], arrays["channels"]
        self._bounds = np.asarray(arrays["bounds"])
        self.lengths, self.labels = np.asarray(arrays["lengths"]), np.asarray(arrays["labels"])
        needed = 4 * binning.channels * int(self.lengths.max())
        if needed > (available := available_memory()):
            raise DataError(
                f"{path}: a sequence of {self.lengths.max():,} steps and {binning.channels:,} "
                f"channels takes {needed / 2**30:.1f} GiB, of which this machine has "
                f"{available / 2**30:.1f}. Use longer steps (data.dt_ms) or a data.duration_ms."
            )

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        """Sequences `[T_i, channels]` as float32."""
        found = []
        for i in positions:
            part = slice(self._bounds[i], self._bounds[i + 1])
            dense = np.zeros((self.lengths[i], self._binning.channels), np.float32)
            if self._binning.binary:
                dense[self._steps[part], self._channels[part]] = 1
            else:
                np.add.at(dense, (self._steps[part], self._channels[part]), 1)
            found.append(dense)
        return found


def _digest(path: Path, binning: Binning) -> str:
    status = path.stat()
    shaping = [RECIPE, str(path.resolve()), status.st_size, status.st_mtime_ns, *binning[:4]]
    return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:12]


def _convert(path: Path, binning: Binning, folder: Path) -> None:
    """Read all spikes of a file and write them as arrays; the folder appears when complete."""
    with opened(path) as file, reading(str(path)):
        times, units, labels = (_dataset(file, name, path) for name in LAYOUT)
        if not len(times) == len(units) == len(labels):
            raise DataError(
                f"{path}: {len(times)} samples of times, {len(units)} of units and {len(labels)} "
                "labels; expected the same number."
            )
        if not len(times):
            raise DataError(f"{path}: holds no samples.")
        found = [
            _sample(times[i], units[i], binning, f"{path}: sample {i}") for i in range(len(times))
        ]
        classes = np.asarray(labels[:], np.int64)
    counts = [len(steps) for steps, _, _ in found]
    arrays: dict[str, Array] = {
        "steps": np.concatenate([steps for steps, _, _ in found]),
        "channels": np.concatenate([channels for _, channels, _ in found]),
        "bounds": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "lengths": np.array([length for _, _, length in found], np.int64),
        "labels": classes,
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        os.replace(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # another process may have made it in the meantime
            raise DataError(f"{folder}: cannot be written ({error.strerror or error}).") from error


def described(path: Path) -> Iterator[str]:
    """Lines on the content of an event file. DataError for one that cannot be used."""
    with opened(path) as file, reading(str(path)):
        times, units, labels = (_dataset(file, name, path) for name in LAYOUT)
        seconds = [np.asarray(times[i]) for i in range(len(times))]
        highest = [int(np.max(units[i], initial=0)) for i in range(len(units))]
        classes, counts = np.unique(labels[:], return_counts=True)
    everything = Binning(max(highest, default=0) + 1, dt_ms=1.0)
    for i, sample in enumerate(seconds):
        _sample(sample, np.zeros(len(sample)), everything, f"{path}: sample {i}")
    spikes = [len(sample) for sample in seconds]
    yield f"{len(spikes)} samples of {min(spikes)} to {max(spikes)} spikes"
    yield f"units 0 to {everything.units - 1}; times up to {max(s[-1] for s in seconds):g} s"
    yield "labels: " + ", ".join(f"{c}: {n}" for c, n in zip(classes, counts, strict=True))


LAYOUT = ("spikes/times", "spikes/units", "labels")


def is_event_file(path: Path) -> bool:
    """Whether an HDF5 file has the layout of events."""
    with opened(path) as file:
        return all(name in file for name in LAYOUT)


def _dataset(file: h5py.File, name: str, path: Path) -> Any:
    found = child(file, name, f"{path}: ")
    if not isinstance(found, h5py.Dataset) or found.ndim != 1:
        raise DataError(
            f"{path}: no dataset {name} with one entry for each sample; expected "
            f"{', '.join(LAYOUT)} (the layout of SHD and SSC)."
        )
    return found


def _sample(times: Any, units: Any, binning: Binning, where: str) -> tuple[Array, Array, int]:
    """Steps and channels of a sample's spikes, and its number of steps."""
    times, units = np.asarray(times, np.float64), np.asarray(units, np.int64)
    if len(times) != len(units):
        raise DataError(f"{where}: {len(times)} times and {len(units)} units.")
    if not len(times):
        raise DataError(f"{where}: has no spikes. Leave such samples out of the file.")
    if not np.isfinite(times).all() or times.min() < 0:
        raise DataError(f"{where}: negative or missing times; expected seconds from 0 on.")
    if (np.diff(times) < 0).any():
        place = int(np.argmax(np.diff(times) < 0)) + 1
        raise DataError(
            f"{where}: times are not sorted, first at spike {place} ({times[place]:g} s after "
            f"{times[place - 1]:g} s). Sort the spikes of each sample by time."
        )
    if units.min() < 0 or units.max() >= binning.units:
        wrong = units[(units < 0) | (units >= binning.units)][0]
        raise DataError(f"{where}: unit {wrong}; expected 0 to {binning.units - 1} (data.units).")
    # rounding up times such as 0.003 s would put a spike on the border into the step before
    steps = np.floor(times * 1000 / binning.dt_ms + 1e-6)
    if binning.duration_ms is None:
        if steps[-1] >= 2**31:
            raise DataError(
                f"{where}: {steps[-1]:.3g} steps of {binning.dt_ms:g} ms; are times in seconds?"
            )
        length = int(steps[-1]) + 1
    else:
        length = max(1, round(binning.duration_ms / binning.dt_ms))
    kept = steps < length
    channels = units[kept] // binning.group
    return steps[kept].astype(np.int32), channels.astype(np.int32), length
