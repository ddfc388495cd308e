"""Augmentation: random changes of training samples, each a pure function of (seed, epoch, sample).

A sample's changes depend neither on the batch that it comes in nor on what was drawn before, so
a resumed run, another batch size and several processes see the very same samples. Validation and
test never change. Frames that are held stay held unless a transform acts along time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from neuro.data import store
from neuro.data.base import TaskSpec

Chance = Annotated[float, Gt(0), Le(1)]


class Transform(ABC):
    """A random change of one sample."""

    supplied: tuple[str, ...] = ()

    #: whether it tells frames apart; held frames are spread over time for it
    in_time = False

    @abstractmethod
    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        """The changed sample, in a new array or the given one: float32 `[T, ...]`."""

    def misfit(self, spec: TaskSpec) -> str:
        """What a task's samples lack for it, or nothing."""
        return ""


class SpatialTransform(Transform):
    """Acts on the last two axes, `[T, ..., H, W]`, the same way in all frames."""

    def misfit(self, spec: TaskSpec) -> str:
        if len(spec.inputs.shape) >= 2:
            return ""
        return f"needs frames of two dimensions, and the task's are {list(spec.inputs.shape)}"


class Shift(SpatialTransform):
    """Moves the frames by a whole number of pixels per axis, up to `pixels`; zeros come in.

    This is a random crop of frames that were padded before.
    """

    def __init__(self, pixels: Annotated[int, Ge(1)] = 1):
        self.pixels = pixels

    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        height, width = sample.shape[-2:]
        down, right = rng.integers(-self.pixels, self.pixels, size=2, endpoint=True)
        moved = np.zeros_like(sample)
        to_rows, from_rows = _overlap(int(down), height)
        to_columns, from_columns = _overlap(int(right), width)
        moved[..., to_rows, to_columns] = sample[..., from_rows, from_columns]
        return moved


class Flip(SpatialTransform):
    """Mirrors the frames with a chance of `chance` for each direction that is on."""

    def __init__(self, horizontal: bool = True, vertical: bool = False, chance: Chance = 0.5):
        if not horizontal and not vertical:
            raise ValueError("horizontal, vertical: turn at least one of them on")
        self.horizontal = horizontal
        self.vertical = vertical
        self.chance = chance

    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        across, over = rng.random(2) < self.chance
        if self.horizontal and across:
            sample = sample[..., ::-1]
        if self.vertical and over:
            sample = sample[..., ::-1, :]
        return sample


class Noise(Transform):
    """Adds Gaussian noise: one pattern for all frames, or with `each_frame` one for each."""

    def __init__(self, std: Annotated[float, Gt(0)] = 0.1, each_frame: bool = False):
        self.std = std
        self.in_time = each_frame

    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        shape = sample.shape if self.in_time else (1, *sample.shape[1:])
        noise = rng.standard_normal(shape, dtype=np.float32)
        changed: store.Array = sample + np.float32(self.std) * noise
        return changed


class Erase(SpatialTransform):
    """Overwrites a random rectangle by `value` with a chance of `chance` (Zhong et al. 2020).

    Each side is up to `largest` of the frame's, and at least one pixel.
    """

    def __init__(
        self,
        chance: Chance = 0.5,
        largest: Annotated[float, Gt(0), Le(1)] = 0.4,
        value: float = 0.0,
    ):
        self.chance = chance
        self.largest = largest
        self.value = value

    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        if rng.random() < self.chance:
            rows, columns = (_window(rng, n, self.largest * n) for n in sample.shape[-2:])
            sample[..., rows, columns] = self.value
        return sample


class TimeTransform(Transform):
    """Acts along time, over durations in ms."""

    in_time = True

    def misfit(self, spec: TaskSpec) -> str:
        if spec.has_time_step:
            return ""
        return "needs a time step, and the task's steps have no unit of time"


class TimeShift(TimeTransform):
    """Moves the sequence in time by a whole number of frames, up to `max_ms`; zeros come in."""

    def __init__(self, max_ms: Annotated[float, Gt(0)] = 20.0):
        self.max_ms = max_ms

    def misfit(self, spec: TaskSpec) -> str:
        if spec.teacher is not None:
            return "would move the inputs, but not what the teacher does at every step"
        if spec.targets.kind in ("class", "value"):
            return super().misfit(spec)
        return f"would move the inputs, but not the targets of every frame ({spec.targets.kind})"

    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        assert dt_ms is not None
        most = int(self.max_ms / dt_ms)
        later, earlier = _overlap(int(rng.integers(-most, most, endpoint=True)), len(sample))
        moved = np.zeros_like(sample)
        moved[later] = sample[earlier]
        return moved


class TimeMask(TimeTransform):
    """Blanks all inputs for up to `max_ms` with a chance of `chance` (Park et al. 2019)."""

    def __init__(self, max_ms: Annotated[float, Gt(0)] = 50.0, chance: Chance = 0.5):
        self.max_ms = max_ms
        self.chance = chance

    def __call__(
        self, sample: store.Array, rng: np.random.Generator, dt_ms: float | None
    ) -> store.Array:
        assert dt_ms is not None
        if rng.random() < self.chance:
            sample[_window(rng, len(sample), self.max_ms / dt_ms)] = 0.0
        return sample


#: by a name of the user's; null takes one out
Transforms = dict[str, Transform | None]


class Augmentation:
    """A source's transforms in the order of the config, with generators for each sample."""

    def __init__(self, transforms: Mapping[str, Transform | None] | None):
        chosen = {name: t for name, t in (transforms or {}).items() if t is not None}
        self.transforms = chosen

    def __bool__(self) -> bool:
        return bool(self.transforms)

    @property
    def in_time(self) -> bool:
        """Whether held frames must be spread over time."""
        return any(transform.in_time for transform in self.transforms.values())

    def misfits(self, spec: TaskSpec) -> list[str]:
        """What keeps transforms from acting on a task's samples."""
        found = {name: transform.misfit(spec) for name, transform in self.transforms.items()}
        return [
            f"data.transforms.{name}: {type(self.transforms[name]).__name__} {problem} "
            f"(task '{spec.task}')."
            for name, problem in found.items()
            if problem
        ]

    def __call__(
        self, samples: store.Array, numbers: store.Array, key: tuple[int, ...], dt_ms: float | None
    ) -> store.Array:
        """Changed samples `[B, T, ...]`.

        `numbers [B]` say which samples they are, `key` what else the changes depend on (seed,
        epoch, ...). Each transform of each sample has a stream of its own: a counter-based
        generator (Philox; Salmon et al. 2011), which costs nothing to seed.
        """
        word = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        changed = np.empty_like(samples)
        for i, number in enumerate(numbers):
            sample = samples[i]
            for stream, transform in enumerate(self.transforms.values()):
                philox = np.random.Philox(
                    key=np.array([word, number], np.uint64), counter=[0, 0, 0, stream]
                )
                sample = transform(sample, np.random.Generator(philox), dt_ms)
            changed[i] = sample
        return changed


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Where values land, and where they come from, when an axis is moved."""
    by = max(-size, min(size, by))
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def _window(rng: np.random.Generator, size: int, longest: float) -> slice:
    """A random stretch of an axis: 1 to `longest` long, and within it."""
    length = int(rng.integers(1, max(1, min(size, round(longest))), endpoint=True))
    start = int(rng.integers(0, size - length, endpoint=True))
    return slice(start, start + length)
