"""Labelled time series of different lengths from `.ts` files, encoded for a network.

Without paths, sets of the package aeon are used, which holds some of them as files; it is located
but not imported, and its dependencies are not needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Interval

from neuro.config.paths import expanded
from neuro.config.types import Count
from neuro.data.base import InputCoding, Split
from neuro.data.ragged.encoders import Encoded, Encoder, Statistics
from neuro.data.ragged.source import RaggedSource, Sequences, divided
from neuro.data.ragged.ts_file import TimeSeries, read_ts
from neuro.data.store import Array
from neuro.errors import ConfigError, DataError, nearest


class TimeSeriesSource(RaggedSource):
    """One task, `all`. Keys are explained in `conf/data/timeseries.yaml`."""

    tasks = ("all",)

    def __init__(
        self,
        *,
        encoder: Encoder,
        name: str | None = "JapaneseVowels",
        train_path: str | None = None,
        test_path: str | None = None,
        frame_ms: Annotated[float, Gt(0)] = 10.0,
        val_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        batch_size: Count = 32,
        bucket: Count = 4,
        split_seed: Annotated[int, Ge(0)] = 0,
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
        if (train_path is None) != (test_path is None):
            raise ValueError("give train_path and test_path, or neither")
        if train_path is None and name is None:
            raise ValueError("name: got null; give a name of a set, or train_path and test_path")
        self.name = name
        self.paths = (train_path, test_path)
        self.frame_ms = frame_ms
        self.encoder = encoder
        self.val_fraction = val_fraction

    @property
    def dt_ms(self) -> float:
        return self.frame_ms / self.encoder.steps

    @property
    def input_shape(self) -> tuple[int, ...]:
        self.prepare()
        return (self.encoder.width(self._channels),)

    @property
    def coding(self) -> InputCoding:
        return "spikes" if self.encoder.makes_spikes else "real"

    def classes(self, task: str) -> int:
        self.prepare()
        return self._classes

    def _open(self) -> dict[str, dict[Split, Sequences]]:
        train_path, test_path = self._files()
        train, test = read_ts(train_path), read_ts(test_path)
        if train.names != test.names or train.series[0].shape[1] != test.series[0].shape[1]:
            raise DataError(
                f"{test_path}: other classes or channels ({len(test.names)}, "
                f"{test.series[0].shape[1]}) than {train_path} ({len(train.names)}, "
                f"{train.series[0].shape[1]})."
            )
        self._channels, self._classes = train.series[0].shape[1], len(train.names)
        raw = _Series(train)
        rows = divided(raw, self.val_fraction, self.split_seed)[0].rows
        statistics = Statistics.of([train.series[i] for i in rows])
        encoded = Encoded(raw, self.encoder, statistics)
        rest, val = divided(encoded, self.val_fraction, self.split_seed)
        held_out = Encoded(_Series(test), self.encoder, statistics)
        return {"all": {"train": rest, "val": val, "test": held_out}}

    def _files(self) -> tuple[Path, Path]:
        """The files of the training and the test part."""
        if self.paths[0] is not None and self.paths[1] is not None:
            given = Path(expanded(self.paths[0])), Path(expanded(self.paths[1]))
            for key, path in zip(("train_path", "test_path"), given, strict=True):
                if not path.is_file():
                    raise ConfigError(f"data.{key}: {path}: no such file; expected a .ts file.")
            return given
        folder = aeon_folder()
        sets = sorted(p.name for p in folder.iterdir() if (p / f"{p.name}_TRAIN.ts").is_file())
        if self.name not in sets:
            raise ConfigError(
                f"data.name: got {self.name}; the package aeon has {', '.join(sets)}."
                f"{nearest(str(self.name), sets)} For other sets give data.train_path and "
                "data.test_path."
            )
        return (
            folder / self.name / f"{self.name}_TRAIN.ts",
            folder / self.name / f"{self.name}_TEST.ts",
        )


def aeon_folder() -> Path:
    """The folder of data sets in the package aeon. ConfigError if it is not installed."""
    found = importlib.util.find_spec("aeon")
    if found is None or found.origin is None:
        raise ConfigError(
            "data=timeseries: its default sets are files of the package aeon; install it with `pip "
            "install neuro[timeseries]` (or `pip install --no-deps aeon`, whose code is not used), "
            "or give data.train_path and data.test_path."
        )
    return Path(found.origin).parent / "datasets" / "data"


class _Series:
    """The series of a file."""

    def __init__(self, found: TimeSeries):
        self.labels = found.labels
        self.lengths = np.array([len(s) for s in found.series], np.int64)
        self._series = found.series

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        return [self._series[i] for i in positions]
