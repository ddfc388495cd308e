"""A user's own sequences in HDF5 files (the layout is described in `store`).

Either one file with the splits, or for each task one file per split. Splits that the files do not
have are split off the training part: first `test_fraction` of it, then `val_fraction` of the rest,
stratified by class and the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, MinLen

from neuro.data import store
from neuro.data.base import SPLITS, Split
from neuro.data.sequences import (
    STRICT,
    Count,
    Fraction,
    InMemory,
    Part,
    Seed,
    SequenceSource,
    all_rows,
    open_splits,
    stratified_order,
)
from neuro.data.transforms import Transforms
from neuro.errors import DataError

#: name of the task when there is one file and no `tasks`
ONLY_TASK = "all"


@dataclass(frozen=True)
class TaskFiles:
    """The files of a task, each with `data` and `labels` at its root (or in the split's group)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    train: str
    test: str
    val: str | None = None


class Hdf5Sequences(SequenceSource):
    """Tasks from HDF5 files.

    `rate_hz`, `classes` and `scale` override what the files' attributes say (frame_rate, classes,
    scale). `outputs` is the width of the readout; by default the highest class of all tasks + 1.
    Data without labels are their own target, for self-supervised objectives.
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
        test_fraction: Fraction = 0.2,
        val_fraction: Fraction = 0.2,
        split_seed: Seed = 0,
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
        )
        self.files = {name: files for name, files in (tasks or {}).items() if files is not None}
        if (path is None) == (not self.files):
            raise ValueError("path, tasks: give either one file or files for each task")
        if classes is not None and outputs is not None and max(classes) >= outputs:
            raise ValueError(f"outputs: got {outputs} for classes up to {max(classes)}")
        self.path = None if path is None else Path(path)
        self.rate_hz = rate_hz
        self.classes = classes
        self.scale = scale
        self.outputs = outputs
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction

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
                    highest = max(highest, *self._classes(part.split))
        return highest + 1

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        opened = {}
        for task in self.tasks:
            splits = self._splits_of(task)
            self._check(task, splits)
            parts = {
                name: all_rows(split, rate_hz=self.rate_hz, scale=self.scale)
                for name, split in splits.items()
            }
            rng = np.random.default_rng([self.split_seed, 0])
            for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
                if name not in parts:
                    parts["train"], parts[name] = _divided(parts["train"], fraction, rng)
            opened[task] = {name: [parts[name]] for name in SPLITS}
        return opened

    def _splits_of(self, task: str) -> dict[str, store.Split]:
        """What the task's files hold, by the name of the split."""
        if self.path is not None:
            splits = open_splits(self.path, self.scale)
            if store.ROOT in splits:
                return {"train": splits[store.ROOT]}
            if "train" not in splits:
                raise DataError(f"{self.path}: holds {', '.join(splits)}, but no group train.")
            return splits
        files = self.files[task]
        splits = {}
        for name in SPLITS:
            file = getattr(files, name)
            if file is None:
                continue
            found = open_splits(Path(file), self.scale)
            if store.ROOT not in found and name not in found:
                raise DataError(
                    f"{file}: holds {', '.join(found)}; expected `data` at the root or a group "
                    f"{name} (data.tasks.{task}.{name})."
                )
            splits[name] = found.get(store.ROOT) or found[name]
        return splits

    def _check(self, task: str, splits: dict[str, store.Split]) -> None:
        """The splits of a task fit each other, and labels lie within the classes."""
        first = splits["train"]
        for split in splits.values():
            if _form(split) != _form(first):
                raise DataError(
                    f"{split.where}: {_form(split)}, but {first.where}: {_form(first)}; expected "
                    f"the same for all splits of task {task!r}."
                )
            if self.rate_hz is None and split.rate_hz and split.duration_ms:
                frames = split.rate_hz * split.duration_ms / 1000
                if abs(frames - split.frames) > 0.5:
                    raise DataError(
                        f"{split.where}: {split.frames} frames, but its attributes frame_rate and "
                        f"duration_ms make {frames:g}. Correct them or set data.rate_hz."
                    )
            if split.labels is None:
                continue
            if split.labels.dtype.kind == "f":
                if self.classes is not None:
                    raise DataError(f"{split.path}: labels are floats; expected integer classes.")
                continue
            outside = ~np.isin(split.labels, self._classes(split))
            if outside.any() or split.labels.min() < 0:
                outside |= split.labels < 0
                where = np.argwhere(outside)[0]
                raise DataError(
                    f"{split.path}: label {split.labels[tuple(where)]} of sample {where[0]} of "
                    f"{split.name or 'labels'} is outside the classes {self._classes(split)}."
                )
            if self.outputs is not None and split.labels.max() >= self.outputs:
                raise DataError(
                    f"{split.path}: label {split.labels.max()} with data.outputs={self.outputs}; "
                    f"expected 0 to {self.outputs - 1}."
                )

    def _classes(self, split: store.Split) -> tuple[int, ...]:
        return self.classes or super()._classes(split)


def _form(split: store.Split) -> str:
    """What must be the same for all splits of a task."""
    labels = "no labels" if split.labels is None else (
        f"{'integer' if split.labels.dtype.kind == 'i' else 'float'} labels "
        f"{['[N]', '[N, .]', '[N, ., .]'][split.labels.ndim - 1]}"
    )  # fmt: skip
    rate = f" at {split.rate_hz:g} Hz" if split.rate_hz else ""
    return f"{split.frames} frames of {list(split.shape[2:])}{rate}, {labels}"


def _divided(part: Part, fraction: float, rng: np.random.Generator) -> tuple[Part, Part]:
    """The part without a stratified random fraction, and that fraction."""
    if len(part) < 2:
        raise DataError(
            f"{part.split.where}: {len(part)} sample; expected enough to split validation and "
            "test parts off."
        )
    count = min(len(part) - 1, max(1, round(fraction * len(part))))
    order = stratified_order(part.strata, rng)
    return part.select(order[count:]), part.select(order[:count])
