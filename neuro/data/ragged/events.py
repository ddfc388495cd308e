"""Sources of events that are binned into time steps, and files of a user."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval

from neuro.config.paths import expanded
from neuro.config.types import Count, Fraction
from neuro.data.base import InputCoding, Split
from neuro.data.ragged.event_file import EventFile
from neuro.data.ragged.event_store import Binning, Events, Polarity, Recording
from neuro.data.ragged.source import RaggedSource, Sequences, divided
from neuro.errors import ConfigError, DataError

Milliseconds = Annotated[float, Interval(gt=0, le=1e9)]


class BinnedSource(RaggedSource):
    """One task, `all`: recordings that subclasses open, as sequences of a common shape.

    Without a recording for validation, `val_fraction` of the training part is used.
    """

    tasks = ("all",)

    def __init__(
        self,
        *,
        binning: Binning,
        outputs: int | None,
        root: str | None,
        batch_size: int,
        bucket: int,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        split_seed: int,
        val_fraction: float = 0.1,
    ):
        super().__init__(
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        if binning.duration_ms is not None and binning.duration_ms < binning.dt_ms:
            raise ValueError(
                f"duration_ms: got {binning.duration_ms:g}, less than dt_ms={binning.dt_ms:g}"
            )
        self.binning = binning
        self.outputs = outputs
        self.val_fraction = val_fraction
        self.root = Path(expanded(root or os.environ.get("NEURO_DATA") or ".data"))

    @abstractmethod
    def _recordings(self) -> Mapping[Split, Recording]:
        """Recordings of `train` and `test`, and possibly of `val`."""

    @property
    def dt_ms(self) -> float:
        return self.binning.dt_ms

    @property
    def input_shape(self) -> tuple[int, ...]:
        self.prepare()
        return self._shape

    @property
    def coding(self) -> InputCoding:
        return "spikes" if self.binning.binary else "counts"

    def classes(self, task: str) -> int:
        self.prepare()
        return self._classes

    def _open(self) -> dict[str, dict[Split, Sequences]]:
        recordings = self._recordings()
        first = recordings["train"]
        self._shape = first.grid.shape
        found: dict[Split, Sequences] = {}
        for split, recording in recordings.items():
            if recording.grid != first.grid:
                raise DataError(
                    f"{recording.where}: other inputs ({recording.grid}) than {first.where} "
                    f"({first.grid})."
                )
            found[split] = Events(recording, self.binning, self.root)
        highest = max(int(sequences.labels.max()) for sequences in found.values())
        lowest = min(int(sequences.labels.min()) for sequences in found.values())
        self._classes = self.outputs or highest + 1
        if lowest < 0 or highest >= self._classes:
            raise DataError(
                f"{first.where}: labels from {lowest} to {highest}; expected 0 to "
                f"{self._classes - 1} (data.outputs)."
            )
        if "val" in found:
            return {"all": found}
        rest, val = divided(found["train"], self.val_fraction, self.split_seed)
        return {"all": {"train": rest, "val": val, "test": found["test"]}}


class EventSource(BinnedSource):
    """A training file and a test file. Keys are explained in `conf/data/events.yaml`."""

    def __init__(
        self,
        *,
        train_path: str | None = None,
        test_path: str | None = None,
        val_path: str | None = None,
        units: Annotated[int, Interval(ge=1, le=10_000_000)] = 700,
        group: Count | None = None,
        polarity: Polarity = "separate",
        dt_ms: Milliseconds = 10.0,
        duration_ms: Milliseconds | None = None,
        binary: bool = True,
        outputs: Annotated[int, Interval(ge=1, le=1_000_000)] | None = None,
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
            outputs=outputs,
            val_fraction=val_fraction,
            root=root,
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        if train_path is None or test_path is None:
            raise ValueError(
                "give train_path and test_path, HDF5 files of events (docs/temporal.md)"
            )
        self.paths: dict[Split, str | None] = {
            "train": train_path,
            "val": val_path,
            "test": test_path,
        }
        self.units = units
        self.group = group
        self.polarity = polarity

    def _recordings(self) -> Mapping[Split, Recording]:
        found: dict[Split, Recording] = {}
        for split, given in self.paths.items():
            if given is not None:
                path = Path(expanded(given))
                if not path.is_file():
                    raise ConfigError(
                        f"data.{split}_path: {path}: no such file; expected an HDF5 file of events."
                    )
                found[split] = EventFile(path, self.units, self.group, self.polarity)
        return found
