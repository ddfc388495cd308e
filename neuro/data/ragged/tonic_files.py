"""2-D events of data sets whose files a user has, read by the package tonic.

tonic (Lenz et al. 2021) has a reader for the file format of each data set. By default it downloads
missing files; here they are an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from neuro.config.paths import expanded
from neuro.config.types import Count, Fraction
from neuro.data.base import Split
from neuro.data.ragged.event_store import (
    MICROSECONDS,
    Binning,
    Grid,
    Pixels,
    Polarity,
    Recording,
    Sample,
    as_address,
)
from neuro.data.ragged.events import BinnedSource, Milliseconds
from neuro.errors import ConfigError, DataError

#: sets of an event camera with a class for each sample, and a training and a test part
Name = Literal["NMNIST", "DVSGesture", "POKERDVS"]


class TonicSource(BinnedSource):
    """The parts of a data set. Keys are explained in `conf/data/tonic.yaml`."""

    def __init__(
        self,
        *,
        name: Name = "NMNIST",
        path: str = ".data",
        group: Count = 1,
        polarity: Polarity = "separate",
        dt_ms: Milliseconds = 10.0,
        duration_ms: Milliseconds | None = None,
        binary: bool = True,
        val_fraction: Fraction = 0.1,
        batch_size: Count = 64,
        bucket: Count = 4,
        split_seed: Annotated[int, Ge(0)] = 0,
        root: str | None = None,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
    ):
        super().__init__(
            binning=Binning(dt_ms, duration_ms, binary),
            outputs=None,
            val_fraction=val_fraction,
            root=root,
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        self.name = name
        self.path = Path(expanded(path))
        self.group = group
        self.polarity: Polarity = polarity

    def _recordings(self) -> Mapping[Split, Recording]:
        return {
            "train": TonicFiles(self.name, self.path, True, self.group, self.polarity),
            "test": TonicFiles(self.name, self.path, False, self.group, self.polarity),
        }


class TonicFiles:
    """One part of a data set, as a `Recording`. ConfigError without tonic or the files."""

    unit = MICROSECONDS

    def __init__(self, name: Name, path: Path, train: bool, group: int, polarity: Polarity):
        try:
            import tonic.datasets
        except ImportError as error:
            raise ConfigError(
                "data=tonic needs the package tonic (pip install neuro[tonic]). For files of your "
                "own use data=events."
            ) from error

        part = "train" if train else "test"
        kind = getattr(tonic.datasets, name)

        def refuse(files: Any) -> None:
            raise ConfigError(
                f"data.path: {path}: lacks the {part} part of {name}; expected its files as tonic "
                f"stores them, {Path(files.location_on_system, files.filename)} and what it holds "
                f"in {files.folder_name}."
            )

        # the folder of the files has the class's name
        local = type(name, (kind,), {"download": refuse, "_copy_and_extract_local_data": refuse})
        self._files = local(save_to=str(path), train=train)
        self.where = f"{path}: {name}, {part}"
        width, height, _ = kind.sensor_size
        self.grid: Grid = Pixels(height, width, group, polarity)

    @property
    def identity(self) -> tuple[str | int, ...]:
        """The part, and the path, size and time of its archive."""
        archive = Path(self._files.location_on_system, self._files.filename)
        status = archive.stat()
        found = str(archive.resolve()), status.st_size, status.st_mtime_ns
        return self._files.folder_name, len(self), *found

    def __len__(self) -> int:
        return len(self._files)

    def samples(self) -> Iterator[Sample]:
        """Read all samples; times are counted from the first event of each."""
        for i in range(len(self)):
            try:
                events, label = self._files[i]
            except (OSError, ValueError, IndexError) as error:
                raise DataError(f"{self.where}: sample {i} cannot be read ({error}).") from error
            order = np.argsort(events["t"], kind="stable")  # some recordings are not sorted
            times = events["t"][order].astype(np.float64)
            address = tuple(as_address(events[axis][order]) for axis in ("x", "y", "p"))
            yield Sample(times - times[:1], address, int(label))
