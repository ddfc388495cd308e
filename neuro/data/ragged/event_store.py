"""Events of an event-based sensor, binned into time steps, stored once and read as sequences.

Samples are read one by one, and their events stored as (step, place) pairs in arrays that are
mapped into memory: `<root>/events-<digest>/`, named after the samples and what shapes them.
Sequences of floats are made when a batch is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from neuro.data.store import Array
from neuro.errors import DataError
from neuro.runtime.memory import available_memory
from neuro.runtime.progress import progress_bar

Polarity = Literal["separate", "merged"]

#: part of every digest; to be raised when equal settings give other arrays than before
RECIPE = 2
#: events in the order of the samples, as raw numbers of this type
STORED = np.dtype(np.int32)


class TimeUnit(NamedTuple):
    """The unit of the times of events."""

    name: str
    symbol: str
    ms: float


SECONDS = TimeUnit("seconds", "s", 1e3)
MICROSECONDS = TimeUnit("microseconds", "µs", 1e-3)


class Units(NamedTuple):
    """`units` numbered input channels, of which each `group` neighbours become one."""

    units: int
    group: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a step, `[channels]`."""
        return (-(-self.units // self.group),)

    def __str__(self) -> str:
        return f"{self.units} units, {self.group} in one"

    def places(self, address: Sequence[Array], where: str) -> Array:
        """Index of each event in a flattened step. DataError for units that do not exist."""
        (units,) = address
        _check_range(units, self.units, f"{where}: unit", " (data.units)")
        return units // self.group


class Pixels(NamedTuple):
    """Pixels of a sensor with two polarities, of which each square of `group` becomes one.

    `polarity`: a channel for each polarity (OFF, ON), or one for both.
    """

    height: int
    width: int
    group: int = 1
    polarity: Polarity = "separate"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a step, `[polarities, height, width]`."""
        sides = -(-self.height // self.group), -(-self.width // self.group)
        return (2 if self.polarity == "separate" else 1, *sides)

    def __str__(self) -> str:
        return f"{self.height} x {self.width} pixels, {self.group} x {self.group} in one"

    def places(self, address: Sequence[Array], where: str) -> Array:
        """Index of each event in a flattened step. DataError for pixels that do not exist."""
        x, y, polarity = address
        _check_range(x, self.width, f"{where}: x", f" (size {self.height} x {self.width})")
        _check_range(y, self.height, f"{where}: y", f" (size {self.height} x {self.width})")
        _check_range(polarity, 2, f"{where}: polarity", "")
        channel = polarity if self.polarity == "separate" else np.zeros_like(polarity)
        _, rows, columns = self.shape
        return (channel * rows + y // self.group) * columns + x // self.group


Grid = Units | Pixels


def _check_range(values: Array, count: int, what: str, source: str) -> None:
    if values.min() < 0 or values.max() >= count:
        wrong = values[(values < 0) | (values >= count)][0]
        raise DataError(f"{what} {wrong}; expected 0 to {count - 1}{source}.")


class Sample(NamedTuple):
    """Events `[E]` of a sample: times, addresses (units; or x, y and polarity), and the class."""

    times: Array
    address: tuple[Array, ...]
    label: int


class Recording(Protocol):
    """Samples of events, which are read in order."""

    where: str  #: in messages, such as a path
    unit: TimeUnit
    grid: Grid

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Changes with the content."""
        ...

    def __len__(self) -> int: ...

    def samples(self) -> Iterator[Sample]:
        """Read all samples. DataError for those that cannot be read."""
        ...


class Binning(NamedTuple):
    """How events become sequences.

    - `dt_ms`: the time step
    - `duration_ms`: of every sequence, later events being left out; None: each ends with its last
    - `binary`: at most one event per step and place, else their number
    """

    dt_ms: float
    duration_ms: float | None = None
    binary: bool = True


class Events:
    """Sequences of a recording, `Sequences` for a source."""

    def __init__(self, recording: Recording, binning: Binning, root: Path):
        folder = root / f"events-{_digest(recording, binning)}"
        if not folder.is_dir():
            _convert(recording, binning, folder)
        self._binary = binning.binary
        self._shape = recording.grid.shape
        self._steps, self._places = (_mapped(folder / f"{name}.bin") for name in _EVENTS)
        self._bounds, self.lengths, self.labels = (
            np.load(folder / f"{name}.npy") for name in _SAMPLES
        )
        needed = STORED.itemsize * math.prod(self._shape) * int(self.lengths.max())
        if needed > (available := available_memory()):
            shape = " x ".join(map(str, self._shape))
            raise DataError(
                f"{recording.where}: a sequence of {self.lengths.max():,} steps and {shape} "
                f"channels takes {needed / 2**30:.1f} GiB, of which this machine has "
                f"{available / 2**30:.1f}. Use longer steps (data.dt_ms) or a data.duration_ms."
            )

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        """Sequences `[T_i, ...]` as float32."""
        found = []
        for i in positions:
            part = slice(self._bounds[i], self._bounds[i + 1])
            dense = np.zeros((self.lengths[i], math.prod(self._shape)), np.float32)
            if self._binary:
                dense[self._steps[part], self._places[part]] = 1
            else:
                np.add.at(dense, (self._steps[part], self._places[part]), 1)
            found.append(dense.reshape(-1, *self._shape))
        return found


_EVENTS = ("steps", "places")
_SAMPLES = ("bounds", "lengths", "labels")


def _digest(recording: Recording, binning: Binning) -> str:
    grid = type(recording.grid).__name__, *recording.grid
    shaping = [RECIPE, *recording.identity, *grid, binning.dt_ms, binning.duration_ms]
    return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:12]


def _mapped(path: Path) -> Array:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, STORED)
    return np.memmap(path, STORED, "r")


def _convert(recording: Recording, binning: Binning, folder: Path) -> None:
    """Store all events of a recording; the folder appears when it is complete."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    counts, lengths, labels = [], [], []
    try:
        temporary.mkdir(parents=True)
        with (
            (temporary / "steps.bin").open("wb") as steps_file,
            (temporary / "places.bin").open("wb") as places_file,
            progress_bar(f"Events of {recording.where}", "samples") as progress,
        ):
            for i, sample in enumerate(recording.samples()):
                steps, places, length = binned(recording, i, sample, binning)
                steps_file.write(steps.astype(STORED).tobytes())
                places_file.write(places.astype(STORED).tobytes())
                counts.append(len(steps))
                lengths.append(length)
                labels.append(sample.label)
                progress(i + 1, len(recording))
        bounds = np.concatenate([[0], np.cumsum(counts)])
        for name, values in zip(_SAMPLES, (bounds, lengths, labels), strict=True):
            np.save(temporary / f"{name}.npy", np.asarray(values, np.int64))
        os.replace(temporary, folder)
    except OSError as error:
        if not folder.is_dir():  # another process may have made it in the meantime
            raise DataError(f"{folder}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def binned(
    recording: Recording, number: int, sample: Sample, binning: Binning
) -> tuple[Array, Array, int]:
    """Steps and places of a sample's events, and its number of steps.

    DataError for times out of order, addresses out of range, and samples without events.
    """
    where = f"{recording.where}: sample {number}"
    check_events(sample, recording.unit, where)
    # rounding up times such as 0.003 s would put an event on the border into the step before
    steps = np.floor(sample.times * (recording.unit.ms / binning.dt_ms) + 1e-6)
    if binning.duration_ms is not None:
        length = max(1, round(binning.duration_ms / binning.dt_ms))
    elif steps[-1] >= np.iinfo(STORED).max:
        raise DataError(
            f"{where}: {steps[-1]:.3g} steps of {binning.dt_ms:g} ms; are times in "
            f"{recording.unit.name}?"
        )
    else:
        length = int(steps[-1]) + 1
    places = recording.grid.places(sample.address, where)
    kept = steps < length
    return steps[kept], places[kept], length


def check_events(sample: Sample, unit: TimeUnit, where: str) -> None:
    """DataError for samples without events, and for times that are negative or not sorted."""
    times = sample.times
    if any(len(part) != len(times) for part in sample.address):
        counts = " and ".join(str(len(part)) for part in sample.address)
        raise DataError(f"{where}: {len(times)} times, but {counts} addresses of events.")
    if not len(times):
        raise DataError(f"{where}: has no events. Leave such samples out.")
    if not np.isfinite(times).all() or times.min() < 0:
        raise DataError(f"{where}: negative or missing times; expected {unit.name} from 0 on.")
    if (np.diff(times) < 0).any():
        place = int(np.argmax(np.diff(times) < 0)) + 1
        raise DataError(
            f"{where}: times are not sorted, first at event {place} ({times[place]:g} "
            f"{unit.symbol} after {times[place - 1]:g} {unit.symbol}). Sort the events of each "
            "sample by time."
        )


def as_address(values: Any) -> Array:
    """Addresses as signed integers, whatever their stored type."""
    return np.asarray(values).astype(np.int64)
