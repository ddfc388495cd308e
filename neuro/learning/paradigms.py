"""Sources of targets, and which targets, mappings and terms fit each other.

- supervised: the data's labels
- self_supervised: the inputs. Numbers are reconstructed at each step; for symbols (integers or
  one-hot vectors) the target is the next one.
- distillation: a teacher's outputs for the same sequences (`Batch.teacher`), in addition to the
  data's labels, which metrics use

The table in `neuro/data/uses.py` lists the valid combinations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from neuro.data.base import (
    Batch,
    DataSource,
    InputSpec,
    Loader,
    Split,
    TargetSpec,
    TaskSpec,
    WrappedLoader,
)
from neuro.data.store import NO_LABEL
from neuro.data.uses import OutputMapping, Paradigm, uses_of


def as_learned(data: DataSource, paradigm: Paradigm) -> DataSource:
    """The source with the targets of a paradigm."""
    return SelfSupervised(data) if paradigm == "self_supervised" else data


class SelfSupervised(DataSource):
    """A source whose targets are made of its inputs.

    Numbers: targets `[B, T, D]` are the inputs, flattened. Symbols: targets `[B, T]` are the
    symbols one step later, with no label at the last one.
    """

    def __init__(self, data: DataSource):
        self.data = data
        self.batch_size = data.batch_size
        self.batch_key = data.batch_key

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.data.tasks

    def prepare(self) -> None:
        self.data.prepare()

    def measured(self) -> dict[str, Any]:
        return self.data.measured()

    def spec(self, task: str) -> TaskSpec:
        spec = self.data.spec(task)
        count = spec.inputs.vocabulary
        if count is None:
            targets = TargetSpec("value_sequence", (prod(spec.inputs.shape),))
            return dataclasses.replace(spec, targets=targets, classes=())
        targets = TargetSpec("token", classes=count)
        return dataclasses.replace(spec, targets=targets, classes=tuple(range(count)))

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
        inner = self.data.loader(
            task,
            split,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
        )
        return _OwnTargets(inner, self.data.spec(task).inputs)


class _OwnTargets(WrappedLoader):
    """The batches of a loader with targets made from their inputs."""

    def __init__(self, loader: Loader, inputs: InputSpec):
        super().__init__(loader)
        self.inputs = inputs

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        for batch in self.loader.batches(epoch, start):
            if self.inputs.is_symbolic:
                sequence = batch.sequence()
                symbols = sequence if self.inputs.dtype == "int" else sequence.argmax(-1)
                targets = F.pad(symbols[:, 1:], (0, 1), value=NO_LABEL)
                if batch.lengths is not None:
                    steps = torch.arange(targets.shape[1])
                    targets = targets.masked_fill(steps >= batch.lengths[:, None] - 1, NO_LABEL)
            else:
                targets = batch.inputs.flatten(2).expand(-1, batch.steps, -1)
            yield batch._replace(targets=targets)


def misfits(paradigm: Paradigm, mapping: OutputMapping, spec: TaskSpec) -> Iterator[str]:
    """Yield the reason why a task does not fit paradigm and mapping, and what fits."""
    uses = list(uses_of(spec.targets.kind))
    if any((use.paradigm, use.mapping) == (paradigm, mapping) for use in uses):
        return
    by_place = spec.targets.kind in ("class_map", "image")
    shape = f" and shape {list(spec.targets.shape)}" if by_place else ""
    ways = "; ".join(
        f"objective.paradigm={use.paradigm} objective.mapping={use.mapping} loss=[{use.losses[0]}]"
        for use in uses
    )
    yield (
        f"objective.mapping={mapping} with objective.paradigm={paradigm} does not fit task "
        f"'{spec.task}', which has targets of kind '{spec.targets.kind}'{shape}. "
        + (f"What fits: {ways}." if ways else "Nothing fits these yet.")
    )
