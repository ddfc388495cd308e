"""Events of a user in files of the layout of SHD and SSC."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from neuro.config.paths import expanded
from neuro.data.base import Split
from neuro.data.ragged.event_file import Binning, Events
from neuro.data.ragged.source import RaggedSource, Sequences, divided
from neuro.data.sequences.source import Count
from neuro.errors import ConfigError, DataError


class EventSource(RaggedSource):
    """One task, `all`, from a training file and a test file.

    Keys are explained in `conf/data/events.yaml`.
    """

    tasks = ("all",)

    def __init__(
        self,
        *,
        train_path: str | None = None,
        test_path: str | None = None,
        val_path: str | None = None,
        units: Count = 700,
        group: Count = 5,
        dt_ms: Annotated[float, Gt(0)] = 10.0,
        duration_ms: Annotated[float, Gt(0)] | None = None,
        binary: bool = True,
        outputs: Count | None = None,
        val_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        batch_size: Count = 64,
        bucket: Count = 4,
        split_seed: Annotated[int, Ge(0)] = 0,
        root: str | None = None,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
    ):
        super().__init__(
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        if duration_ms is not None and duration_ms < dt_ms:
            raise ValueError(f"duration_ms: got {duration_ms:g}, less than dt_ms={dt_ms:g}")
        if train_path is None or test_path is None:
            raise ValueError("give train_path and test_path, HDF5 files with the layout of SHD")
        self.paths = {"train": train_path, "val": val_path, "test": test_path}
        self.binning = Binning(units, dt_ms, duration_ms, group, binary)
        self.outputs = outputs
        self.val_fraction = val_fraction
        self.root = Path(expanded(root or os.environ.get("NEURO_DATA") or ".data"))

    @property
    def dt_ms(self) -> float:
        return self.binning.dt_ms

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.binning.channels,)

    def classes(self, task: str) -> int:
        self.prepare()
        return self._classes

    def _open(self) -> dict[str, dict[Split, Sequences]]:
        found: dict[str, Sequences] = {}
        for split, given in self.paths.items():
            if given is not None:
                path = Path(expanded(given))
                if not path.is_file():
                    raise ConfigError(
                        f"data.{split}_path: {path}: no such file; expected an HDF5 file of events."
                    )
                found[split] = Events(path, self.binning, self.root)
        highest = max(int(sequences.labels.max()) for sequences in found.values())
        lowest = min(int(sequences.labels.min()) for sequences in found.values())
        self._classes = self.outputs or highest + 1
        if lowest < 0 or highest >= self._classes:
            raise DataError(
                f"{self.paths['train']}: labels from {lowest} to {highest}; expected 0 to "
                f"{self._classes - 1}."
            )
        train = found["train"]
        if "val" in found:
            return {"all": {"train": train, "val": found["val"], "test": found["test"]}}
        rest, val = divided(train, self.val_fraction, self.split_seed)
        return {"all": {"train": rest, "val": val, "test": found["test"]}}
