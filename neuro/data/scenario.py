"""Continual-learning scenarios: a task of any source with classes, divided into splits by classes.

It works on the batches of the source, so that any `DataSource` with one class per sample can be
divided. Every epoch of a split reads the whole task and leaves samples of other splits out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuro.config.scenario import JOINT, ScenarioSettings
from neuro.data.base import (
    Batch,
    DataSource,
    Layout,
    Loader,
    Split,
    TaskSpec,
    WrappedLoader,
    layout_of,
    own_share,
)
from neuro.data.loading import cuts
from neuro.errors import ConfigError, nearest


class ScenarioData(DataSource):
    """The splits of a scenario as tasks `split_1`, `split_2`, ..., and all together as `joint`.

    Samples without a class are left out. `Batch.choices` has the outputs of a sample's split if the
    scenario gives the split at test time. ConfigError, from `prepare`, for a task that cannot be
    divided so.
    """

    def __init__(self, data: DataSource, settings: ScenarioSettings):
        self.data = data
        self.settings = settings
        self.batch_size = data.batch_size
        self.batch_key = data.batch_key
        self.splits: dict[str, tuple[int, ...]] = {}
        self._counts = cache(self._counted)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.settings.tasks

    def prepare(self) -> None:
        self.data.prepare()
        if not self.splits:
            self.splits = self._divided()

    def measured(self) -> dict[str, Any]:
        return self.data.measured()

    def spec(self, task: str) -> TaskSpec:
        spec = self.data.spec(self.settings.task)
        classes = [label for labels in self._of(task) for label in labels]
        if self.settings.kind == "domain":
            outputs = len(self._of(task)[0])
            targets = dataclasses.replace(spec.targets, classes=outputs)
            classes = list(range(outputs))
        else:
            targets = spec.targets
        return dataclasses.replace(
            spec, task=task, targets=targets, classes=tuple(sorted(classes)), partly_labelled=False
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
    ) -> Loader:
        size = self.batch_size if batch_size is None else batch_size
        if size < world_size:
            raise ConfigError(
                f"data.{self.batch_key}: got {size} for {world_size} processes; it is divided "
                f"among them, so give at least {world_size}."
            )
        whole = self.data.loader(
            self.settings.task, split, shuffle=shuffle, seed=seed, batch_size=size
        )
        counts: Counter[Layout] = Counter()
        chosen = {label for labels in self._of(task) for label in labels}
        for (layout, label), count in self._counts(split).items():
            counts[layout] += count if label in chosen else 0
        share = (rank, world_size, shuffle)
        return _SplitLoader(whole, self._labels(task), task, size, +counts, share)

    def _of(self, task: str) -> Sequence[tuple[int, ...]]:
        """The classes of the splits that a task consists of. ConfigError for an unknown task."""
        self.prepare()
        if task == JOINT:
            return list(self.splits.values())
        if task not in self.splits:
            raise ConfigError(
                f"data: no task {task!r}; the scenario has {', '.join(self.tasks)}."
                + nearest(task, self.tasks)
            )
        return [self.splits[task]]

    def _labels(self, task: str) -> _Labels:
        """How the labels of the source become targets of a task."""
        every = self.data.spec(self.settings.task)
        assert every.targets.classes is not None
        kind, width = self.settings.kind, every.targets.classes
        targets = torch.full((max(width, max(every.classes) + 1),), -1)
        choices = torch.zeros(len(targets), width, dtype=torch.bool)
        for labels in self._of(task):
            for position, label in enumerate(labels):
                targets[label] = position if kind == "domain" else label
                choices[label, list(labels)] = True
        return _Labels(targets, choices if kind == "task" else None)

    def _counted(self, split: Split) -> Counter[tuple[Layout, int]]:
        """Samples of a split of the source by layout and class."""
        found: Counter[tuple[Layout, int]] = Counter()
        for batch in self.data.loader(self.settings.task, split).batches():
            layout = layout_of(batch)
            found.update((layout, label) for label in batch.targets.tolist())
        return found

    def _divided(self) -> dict[str, tuple[int, ...]]:
        """The classes of each split."""
        settings, names = self.settings, self.settings.names
        if settings.task not in self.data.tasks:
            raise ConfigError(
                f"scenario.task: the data has no task '{settings.task}'. Its tasks: "
                f"{', '.join(self.data.tasks)}.{nearest(settings.task, self.data.tasks)}"
            )
        spec = self.data.spec(settings.task)
        if spec.targets.kind != "class":
            raise ConfigError(
                f"scenario: task '{settings.task}' of the data has targets of kind "
                f"'{spec.targets.kind}'; only data with one class per sample can be divided. "
                "Leave it out by ~scenario, and name the tasks of the data in the phases."
            )
        classes = list(spec.classes)
        if isinstance(settings.splits, int):
            count = settings.splits
            if len(classes) % count:
                fitting = [n for n in range(2, len(classes) + 1) if len(classes) % n == 0]
                raise ConfigError(
                    f"scenario.splits: got {count}, into which the {len(classes)} classes of task "
                    f"'{settings.task}' cannot be divided equally. Give "
                    f"{' or '.join(map(str, fitting)) or 'lists of classes'}, or the classes of "
                    "each split, as in [[0,1,2],[3]]."
                )
            if settings.order_seed is not None:
                np.random.default_rng(settings.order_seed).shuffle(classes)
            size = len(classes) // count
            parts = [classes[i : i + size] for i in range(0, len(classes), size)]
        else:
            parts = [list(labels) for labels in settings.splits]
            self._check_lists(parts, classes)
        return {name: tuple(part) for name, part in zip(names, parts, strict=True)}

    def _check_lists(self, parts: Sequence[Sequence[int]], classes: Sequence[int]) -> None:
        """Raise ConfigError for given splits that do not fit the classes of the data."""
        task, given = self.settings.task, [label for part in parts for label in part]
        if unknown := sorted(set(given) - set(classes)):
            raise ConfigError(
                f"scenario.splits: task '{task}' of the data has no class {unknown[0]}. Its "
                f"classes: {', '.join(map(str, classes))}."
            )
        if repeated := [label for label, times in Counter(given).items() if times > 1]:
            raise ConfigError(
                f"scenario.splits: class {repeated[0]} is given twice; a class is in one split."
            )
        sizes = [len(part) for part in parts]
        if self.settings.kind == "domain" and len(set(sizes)) > 1:
            raise ConfigError(
                f"scenario.splits: got splits of {', '.join(map(str, sizes))} classes; in "
                "scenario.kind=domain all splits share the outputs, so give equal numbers."
            )
        if self.settings.order_seed is not None:
            raise ConfigError(
                "scenario.order_seed: draws the order of classes that scenario.splits lists; set "
                "it to null, or give the number of splits."
            )


@dataclasses.dataclass(frozen=True)
class _Labels:
    """By label of the source: targets `[labels]`, -1 for samples that are left out, and choices
    `[labels, K]` or None.
    """

    targets: Tensor
    choices: Tensor | None

    def chosen(self, batch: Batch) -> Batch:
        """The samples of the task, with its targets."""
        known = batch.targets >= 0
        kept = known & (self.targets[batch.targets.clamp_min(0)] >= 0)
        batch = batch.rows(kept)
        choices = None if self.choices is None else self.choices[batch.targets]
        return batch._replace(targets=self.targets[batch.targets], choices=choices)


class _SplitLoader(WrappedLoader):
    """The samples of some classes, in the order of a loader of all and in batches of full size.

    - `loader`: not divided among processes
    - `counts`: samples by layout; those of different layouts are not joined
    - `share`: rank, number of processes, and whether samples are repeated so that each process has
      some of every batch
    """

    def __init__(
        self,
        loader: Loader,
        labels: _Labels,
        task: str,
        batch_size: int,
        counts: Mapping[Layout, int],
        share: tuple[int, int, bool],
    ):
        super().__init__(loader)
        self.samples = sum(counts.values())
        self._labels = labels
        self._task = task
        self._sizes = {
            layout: [end - start for start, end in cuts(count, batch_size, share[1])]
            for layout, count in counts.items()
        }
        self._share = share

    def __len__(self) -> int:
        return sum(len(sizes) for sizes in self._sizes.values())

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        rank, world_size, repeat = self._share
        for number, batch in enumerate(self._joined(epoch)):
            if number >= start:
                batch = batch._replace(task=self._task)
                yield own_share(batch, rank, world_size, repeat=repeat)

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        self.loader.observe(ids, losses, None)

    def _joined(self, epoch: int) -> Iterator[Batch]:
        waiting: dict[Layout, Batch] = {}
        left = {layout: list(sizes) for layout, sizes in self._sizes.items()}
        for whole in self.loader.batches(epoch):
            batch, layout = self._labels.chosen(whole), layout_of(whole)
            if layout in waiting:
                batch = waiting[layout].joined(batch)
            while left.get(layout) and len(batch.targets) >= left[layout][0]:
                size = left[layout].pop(0)
                yield batch.rows(slice(size))
                batch = batch.rows(slice(size, None))
            waiting[layout] = batch
