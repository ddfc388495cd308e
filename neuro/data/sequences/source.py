"""Base of sources whose tasks are stored in files with the layout of `store`.

A task may have several parts (see `parts`). Batches are from one part, and thus have one time step.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from neuro.config.paths import expanded
from neuro.data import store, teaching
from neuro.data.augmentation import Augmentation, Transforms
from neuro.data.base import SPLITS, Batch, DataSource, InputSpec, Split, TargetSpec, TaskSpec
from neuro.data.loading import InMemory, SequenceLoader
from neuro.data.parts import Part, stratified_order
from neuro.data.uses import target_of
from neuro.errors import ConfigError, nearest


class SequenceSource(DataSource):
    """A source whose tasks are stored in HDF5 files, which subclasses open in `_open`."""

    def __init__(
        self,
        *,
        batch_size: int,
        in_memory: InMemory,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        split_seed: int,
        root: str | None,
        transforms: Transforms | None = None,
    ):
        self.root = Path(expanded(root or os.environ.get("NEURO_DATA") or ".data"))
        self.batch_size = batch_size
        self.in_memory = in_memory
        self.limits: dict[str, int | None] = {
            "train": limit_train,
            "val": limit_val,
            "test": limit_test,
        }
        self.split_seed = split_seed
        self.augmentation = Augmentation(transforms)
        self._parts: dict[str, dict[Split, list[Part]]] | None = None

    @abstractmethod
    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        """The parts of each task and split; generates files if they are missing."""

    @abstractmethod
    def _outputs(self) -> int:
        """Width of the readout for tasks with classes."""

    def _classes(self, split: store.Split) -> tuple[int, ...]:
        """Allowed labels of a file: those of its attribute, else those that occur."""
        assert split.labels is not None
        occurring = split.labels[split.labels != store.NO_LABEL]
        return split.classes or tuple(np.unique(occurring).tolist())

    def _settle(self, parts: Mapping[str, Mapping[Split, Sequence[Part]]]) -> None:
        """Set the conversion of values to inputs from the content of the training parts."""

    def prepare(self) -> None:
        if self._parts is None:
            opened = {
                task: {split: self._limited(parts, split) for split, parts in splits.items()}
                for task, splits in self._open().items()
            }
            self._settle(opened)
            self._parts = opened
            self._check_transforms()

    def _check_transforms(self) -> None:
        """ConfigError for transforms that cannot be applied to the tasks."""
        specs = [self.spec(task) for task in self.tasks] if self.augmentation else []
        problems = [p for spec in specs for p in self.augmentation.misfits(spec)]
        if problems:
            raise ConfigError(problems)

    def teach(
        self, task: str, split: Split, key: str, run: Callable[[Batch], Tensor], mixtures: int = 0
    ) -> None:
        taught = {f"{task}-{split}-{i}": part for i, part in enumerate(self.parts(task, split))}
        if mixtures:
            seed, size = self.split_seed, self.batch_size
            taught |= {
                f"{name}-mixed": teaching.mixed(part, self.root, name, mixtures, seed, size)
                for name, part in taught.items()
            }
        for name, part in taught.items():
            loader = SequenceLoader(
                [part],
                task=task,
                batch_size=self.batch_size,
                shuffle=False,
                seed=0,
                rank=0,
                world_size=1,
                in_memory=False,
            )
            part.teacher = teaching.trajectories(part, loader, self.root, name, key, run)
        assert self._parts is not None
        self._parts[task][split] = list(taught.values())
        self._check_transforms()

    def parts(self, task: str, split: Split) -> Sequence[Part]:
        """The parts of a split of a task. ConfigError for unknown names."""
        if task not in self.tasks:
            raise ConfigError(
                f"data: no task {task!r}; it has {', '.join(self.tasks)}."
                + nearest(task, self.tasks)
            )
        if split not in SPLITS:
            raise ConfigError(f"data: no split {split!r}; there are {', '.join(SPLITS)}.")
        self.prepare()
        assert self._parts is not None
        return self._parts[task][split]

    def spec(self, task: str) -> TaskSpec:
        every = [part for split in SPLITS for part in self.parts(task, split)]
        first = every[0]
        kind = target_of(first.split, first.encoding.symbols is not None)
        labels, classes = first.split.labels, []
        if kind in ("class", "class_sequence", "class_map"):
            assert labels is not None
            shape = labels.shape[1:] if kind == "class_map" else ()
            targets = TargetSpec(kind, shape, classes=self._outputs())
            classes = sorted({c for part in every for c in self._classes(part.split)})
        elif kind == "token":
            targets = TargetSpec(kind, classes=first.encoding.symbols)
            classes = list(range(targets.classes or 0))
        elif first.split.images is not None:
            targets = TargetSpec(kind, first.split.images.shape[1:])
        elif labels is not None:
            targets = TargetSpec(kind, (1 if labels.ndim == 1 else labels.shape[-1],))
        else:
            targets = TargetSpec(kind, (math.prod(first.input_shape),))
        encoding = first.encoding
        inputs = InputSpec(
            first.input_shape,
            "float" if encoding.symbols is None or encoding.one_hot else "int",
            encoding.symbols,
        )
        timings = dict.fromkeys((part.split.frames, part.dt_ms) for part in every)
        return TaskSpec(
            task=task,
            inputs=inputs,
            targets=targets,
            timings=tuple(timings),
            classes=tuple(classes),
            teacher=None if first.teacher is None else first.teacher.split.shape[-1],
            partly_labelled=kind == "class"
            and any(bool(np.any(part.labels == store.NO_LABEL)) for part in every),
        )

    def loader(
        self,
        task: str,
        split: Split,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> SequenceLoader:
        assert 0 <= rank < world_size
        size = self.batch_size if batch_size is None else batch_size
        if size < world_size:
            raise ConfigError(
                f"data.batch_size: got {size} for {world_size} processes; it is divided among "
                f"them, so give at least {world_size}."
            )
        return SequenceLoader(
            self.parts(task, split),
            task=task,
            batch_size=size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            in_memory=self.in_memory,
            augmentation=self.augmentation if split == "train" and shuffle else None,
        )

    def _limited(self, parts: list[Part], split: Split) -> list[Part]:
        """The first `limit_<split>` samples of a stratified order over all parts."""
        limit = self.limits[split]
        if limit is None or limit >= sum(len(part) for part in parts):
            return parts
        rng = np.random.default_rng([self.split_seed, 1])
        chosen = stratified_order(np.concatenate([part.strata for part in parts]), rng)[:limit]
        limited, start = [], 0
        for part in parts:
            mine = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            start += len(part)
            if len(mine):
                limited.append(part.select(mine))
        return limited
