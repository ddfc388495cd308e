"""Sequences of users in HDF5 files (the layout is described in `store`).

There is one file with all splits, or a file for each task, or a file for each task and split.
Missing splits are taken from the training part: the fractions `test_fraction` and `val_fraction`,
stratified by class and equal in every run.

Sequences are resampled, then scaled or one-hot encoded. The required properties of the data
(`value_range`, `symbols`) are measured on the training split only, and recorded with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, MinLen

from neuro.config.types import STRICT, Count, Fraction, Seed
from neuro.data import layout, store
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.loading import InMemory
from neuro.data.parts import Encoding, Part, all_rows, stratified_order
from neuro.data.sequences.fit import InputEncoding, check_encoding, check_task, range_of, symbols_of
from neuro.data.sequences.resampling import resampled
from neuro.data.sequences.source import SequenceSource
from neuro.errors import DataError

#: name of the task when there is one file and no `tasks`
ONLY_TASK = "all"


@dataclass(frozen=True)
class TaskFiles:
    """The files of a task: `path` with all splits, or one file for each split.

    A split's file has `data` and `labels` at its root, or in the split's group.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    path: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.train is None) or (self.path and (self.val or self.test)):
            raise ValueError("give either path, or train and if you have them val and test")


class Hdf5Sequences(SequenceSource):
    """Tasks from HDF5 files.

    `rate_hz`, `classes` and `scale` override attributes of the files (frame_rate, classes, scale).
    `outputs` is the width of the readout; by default the highest class of all tasks + 1. Data
    without labels are their own target, for self-supervised objectives.

    - `target_seq_len` resamples sequences to this many steps (see `resampling`).
    - `min_scale` and `max_scale` map `value_range`, by default the lowest and highest value of the
      training split, linearly to these two numbers; other values may exceed them.
    - `input_encoding` one_hot makes `[T, symbols]` of symbols, integers 0 to `symbols` - 1; tokens
      keeps integers `[T]`. Their number is by default that of the attribute, else the highest
      symbol of the training split + 1.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        tasks: dict[str, TaskFiles | None] | None = None,
        rate_hz: Annotated[float, Gt(0)] | None = None,
        classes: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)] | None = None,
        scale: Annotated[float, Gt(0)] | None = None,
        outputs: Count | None = None,
        target_seq_len: Count | None = None,
        min_scale: float | None = None,
        max_scale: float | None = None,
        value_range: tuple[float, float] | None = None,
        input_encoding: InputEncoding = "raw",
        symbols: Count | None = None,
        test_fraction: Fraction = 0.1,
        val_fraction: Fraction = 0.2,
        split_seed: Seed = 0,
        root: str | None = None,
        in_memory: InMemory = "auto",
        batch_size: Count = 64,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
        transforms: Transforms | None = None,
    ):
        super().__init__(
            batch_size=batch_size,
            in_memory=in_memory,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            transforms=transforms,
            split_seed=split_seed,
            root=root,
        )
        self.files = {name: files for name, files in (tasks or {}).items() if files is not None}
        self.path = None if path is None else Path(path)
        self.rate_hz = rate_hz
        self.classes = classes
        self.scale = scale
        self.outputs = outputs
        self.target_seq_len = target_seq_len
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.value_range = value_range
        self.input_encoding = input_encoding
        self.symbolic = input_encoding != "raw"
        self.symbols = symbols
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction
        self._check_keys()

    def _check_keys(self) -> None:
        """ValueError for combinations of arguments that annotations cannot express."""
        if (self.path is None) == (not self.files):
            raise ValueError("path, tasks: give either one file or files for each task")
        if self.classes and self.outputs and max(self.classes) >= self.outputs:
            raise ValueError(f"outputs: got {self.outputs} for classes up to {max(self.classes)}")
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError(
                f"test_fraction, val_fraction: got {self.test_fraction:g} and "
                f"{self.val_fraction:g}, which leave nothing to train on; give less than 1 together"
            )
        scaled = self.min_scale is not None and self.max_scale is not None
        if not scaled and (self.min_scale, self.max_scale) != (None, None):
            raise ValueError("min_scale, max_scale: give both, or neither for values as they are")
        for name, bounds in (
            ("min_scale, max_scale", (self.min_scale, self.max_scale)),
            ("value_range", self.value_range or (None, None)),
        ):
            low, high = bounds
            if low is not None and high is not None and low >= high:
                raise ValueError(f"{name}: got {low:g} and {high:g}; the first must be lower")
        if self.value_range and not scaled:
            raise ValueError("value_range: is what min_scale and max_scale map; give them too")
        if self.symbolic and (scaled or self.scale is not None):
            raise ValueError(
                f"input_encoding: {self.input_encoding} inputs are symbols, which have no scale; "
                "set min_scale, max_scale and scale to null"
            )
        if not self.symbolic and self.symbols is not None:
            raise ValueError(
                "symbols: is for input_encoding=one_hot or tokens; set symbols=null for raw"
            )

    def measured(self) -> dict[str, Any]:
        if self.symbolic:
            return {"symbols": self.symbols}
        return {"value_range": list(self.value_range)} if self.value_range else {}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.files) or (ONLY_TASK,)

    def _outputs(self) -> int:
        if self.outputs is not None:
            return self.outputs
        assert self._parts is not None
        highest = -1
        for splits in self._parts.values():
            for part in (part for parts in splits.values() for part in parts):
                if part.split.labels is not None and part.split.labels.dtype.kind == "i":
                    highest = max([highest, *self._classes(part.split)])
        return highest + 1

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        opened = {}
        for task in self.tasks:
            splits = self._splits_of(task)
            check_task(task, splits, self.classes, self.outputs, self.rate_hz)
            parts = {name: self._part(split) for name, split in splits.items()}
            whole = parts["train"]
            rng = np.random.default_rng([self.split_seed, 0])
            for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
                if name not in parts:
                    count = max(1, round(fraction * len(whole)))
                    parts["train"], parts[name] = _divided(parts["train"], count, rng)
            opened[task] = {name: [parts[name]] for name in SPLITS}
        return opened

    def _part(self, split: store.Split) -> Part:
        """All samples of a split, resampled if `target_seq_len` is set."""
        steps = self.target_seq_len or split.frames
        rate = self.rate_hz and self.rate_hz * steps / split.frames
        split = resampled(split, steps, symbols=self.symbolic, scale=self.scale, root=self.root)
        return all_rows(split, rate_hz=rate, scale=self.scale)

    def _settle(self, parts: Mapping[str, Mapping[Split, Sequence[Part]]]) -> None:
        train = [part for splits in parts.values() for part in splits["train"]]
        every = [part for splits in parts.values() for found in splits.values() for part in found]
        if self.symbolic:
            self.symbols = self.symbols or symbols_of(train)
            for part in every:
                one_hot = self.input_encoding == "one_hot"
                part.encoding = Encoding(symbols=self.symbols, one_hot=one_hot)
                if part.split.nbytes <= store.VERIFIED_BYTES:
                    part.check_symbols()
        elif self.min_scale is not None and self.max_scale is not None:
            self.value_range = low, high = self.value_range or range_of(train)
            slope = (self.max_scale - self.min_scale) / (high - low)
            for part in every:
                scale = part.encoding.scale
                part.encoding = Encoding(scale * slope, self.min_scale - low * slope)

    def _splits_of(self, task: str) -> dict[str, store.Split]:
        """The splits in a task's files, by name."""
        files = self.files.get(task)
        path = self.path if files is None else files.path and Path(files.path)
        if path:
            splits = self._open_splits(path)
            if store.ROOT in splits:
                return {"train": splits[store.ROOT]}
            if "train" not in splits:
                raise DataError(f"{path}: holds {', '.join(splits)}, but no group train.")
            return splits
        splits = {}
        for name in SPLITS:
            file = getattr(files, name)
            if file is None:
                continue
            found = self._open_splits(Path(file))
            if store.ROOT not in found and name not in found:
                raise DataError(
                    f"{file}: holds {', '.join(found)}; expected `data` at the root or a group "
                    f"{name} (data.tasks.{task}.{name})."
                )
            splits[name] = found.get(store.ROOT) or found[name]
        return splits

    def _open_splits(self, path: Path) -> dict[str, store.Split]:
        """Open the splits of a file, and check that their data fit `input_encoding`."""
        splits = layout.open_splits(path, 1.0 if self.symbolic else self.scale)
        for split in splits.values():
            check_encoding(split, self.input_encoding)
        return splits

    def _classes(self, split: store.Split) -> tuple[int, ...]:
        return self.classes or super()._classes(split)


def _divided(part: Part, count: int, rng: np.random.Generator) -> tuple[Part, Part]:
    """Divide a part into the rest and `count` random samples, stratified by class."""
    if len(part) < 2:
        raise DataError(
            f"{part.split.where}: {len(part)} sample; expected enough to split validation and "
            "test parts off."
        )
    count = min(len(part) - 1, count)
    order = stratified_order(part.strata, rng)
    return part.select(order[count:]), part.select(order[:count])
