"""Augmentation: apply a source's transforms to the samples of training batches.

A sample's changes are a function of (seed, epoch, sample), independent of its batch and of earlier
random numbers, so that a resumed run, another batch size or several processes use the same
samples. Validation and test data are not changed. Held frames stay held unless a transform acts
along time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neuro.data import store
from neuro.data.base import TaskSpec
from neuro.data.transforms import Transform
from neuro.data.uses import TargetKind

#: transforms by names of the user's choice; null removes one
Transforms = dict[str, Transform | None]


class Augmentation:
    """A source's transforms in the order of the config, with a random generator per sample."""

    def __init__(self, transforms: Mapping[str, Transform | None] | None):
        chosen = {name: t for name, t in (transforms or {}).items() if t is not None}
        self.transforms = chosen

    def __bool__(self) -> bool:
        return bool(self.transforms)

    @property
    def in_time(self) -> bool:
        """True if held frames must be repeated over time first."""
        return any(transform.in_time for transform in self.transforms.values())

    def misfits(self, spec: TaskSpec) -> list[str]:
        """Problems of transforms that cannot be applied to a task's samples."""
        found = {name: transform.misfit(spec) for name, transform in self.transforms.items()}
        return [
            f"data.transforms.{name}: {type(self.transforms[name]).__name__} {problem} "
            f"(task '{spec.task}')."
            for name, problem in found.items()
            if problem
        ]

    def __call__(
        self,
        inputs: store.Array,
        targets: store.Array | None,
        kind: TargetKind,
        numbers: store.Array,
        key: tuple[int, ...],
        dt_ms: float | None,
    ) -> tuple[store.Array, store.Array | None]:
        """Changed inputs `[B, T, ...]` and targets `[B, ...]` of a kind; both may be overwritten.

        `numbers [B]` identify the samples; `key` holds the other values that changes depend on
        (seed, epoch, part). Each transform of each sample has a stream of its own from a
        counter-based generator (Philox; Salmon et al. 2011), which is seeded at no cost.
        """
        word = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        changed = np.empty_like(inputs)
        for i, number in enumerate(numbers):
            sample = inputs[i]
            for stream, transform in enumerate(self.transforms.values()):
                philox = np.random.Philox(
                    key=np.array([word, number], np.uint64), counter=[0, 0, 0, stream]
                )
                change = transform.draw(sample.shape, np.random.Generator(philox), dt_ms)
                sample = change(sample)
                if targets is not None and kind in transform.joint:
                    targets[i] = change(targets[i])
            changed[i] = sample
        return changed, targets
