"""Transforms for augmentation: random changes of single training samples.

A transform draws a change, which is applied to the inputs and to a target that must follow them (an
image that is mirrored with its frames, classes that move in time with their steps).
`data/augmentation.py` applies transforms to batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from neuro.data import store
from neuro.data.base import TaskSpec
from neuro.data.uses import TargetKind

Chance = Annotated[float, Gt(0), Le(1)]
#: a change of one array: a sample's inputs `[T, ...]`, or its target in the same way
Change = Callable[[store.Array], store.Array]


class Transform(ABC):
    """A random change of the inputs of a sample, and of targets that must follow them."""

    supplied: tuple[str, ...] = ()

    #: whether frames of a sequence are changed differently; held frames are repeated first
    in_time = False

    #: kinds of targets that are changed in the same way as the inputs; all others stay
    joint: tuple[TargetKind, ...] = ()

    @abstractmethod
    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        """Draw a change for float32 inputs of shape `[T, ...]`, and for the target if it is joint.

        The change may work in place. Integers are classes; where they become undefined the change
        sets them to `store.NO_LABEL`.
        """

    def misfit(self, spec: TaskSpec) -> str:
        """Why the transform cannot be applied to a task's samples; empty if it can."""
        if spec.inputs.dtype == "int":
            return "changes numbers, and the task's inputs are integers"
        return ""


class SpatialTransform(Transform):
    """Acts on the last two axes, `[T, ..., H, W]`, the same way in all frames."""

    def misfit(self, spec: TaskSpec) -> str:
        frame, target = spec.inputs.shape, spec.targets
        if len(frame) < 2:
            return f"needs frames of two dimensions, and the task's are {list(frame)}"
        if target.kind in self.joint and target.shape[-2:] != frame[-2:]:
            return (
                f"would move frames of {list(frame[-2:])}, but cannot move targets of shape "
                f"{list(target.shape)} with them"
            )
        return super().misfit(spec)


class JointSpatialTransform(SpatialTransform):
    """A spatial transform that also changes targets that are images."""

    joint = ("image", "class_map")


class Shift(JointSpatialTransform):
    """Moves the frames by a whole number of pixels per axis, up to `pixels`; filled with zeros.

    This is a random crop of frames that were padded before.
    """

    def __init__(self, pixels: Annotated[int, Ge(1)] = 1):
        self.pixels = pixels

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        down, right = rng.integers(-self.pixels, self.pixels, size=2, endpoint=True).tolist()

        def change(values: store.Array) -> store.Array:
            moved = np.full_like(values, _blank(values))
            to_rows, from_rows = _overlap(down, values.shape[-2])
            to_columns, from_columns = _overlap(right, values.shape[-1])
            moved[..., to_rows, to_columns] = values[..., from_rows, from_columns]
            return moved

        return change


class Roll(JointSpatialTransform):
    """Moves the frames by a whole number of pixels per axis, cyclically.

    All distances are equally likely. Exact for tiles that repeat in both directions.
    """

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        by = tuple(rng.integers(shape[-2:]).tolist())
        return lambda values: np.roll(values, by, (-2, -1))


class Flip(JointSpatialTransform):
    """Mirrors the frames with a chance of `chance` for each direction that is on."""

    def __init__(self, horizontal: bool = True, vertical: bool = False, chance: Chance = 0.5):
        if not horizontal and not vertical:
            raise ValueError("horizontal, vertical: turn at least one of them on")
        self.horizontal = horizontal
        self.vertical = vertical
        self.chance = chance

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        across, over = rng.random(2) < self.chance
        columns = slice(None, None, -1 if self.horizontal and across else 1)
        rows = slice(None, None, -1 if self.vertical and over else 1)
        return lambda values: values[..., rows, columns]


class Rotate(JointSpatialTransform):
    """Rotates the frames by a random multiple of `degrees`, all equally likely."""

    def __init__(self, degrees: Literal[90, 180] = 90):
        self.degrees = degrees

    def misfit(self, spec: TaskSpec) -> str:
        height, width = (0, 0, *spec.inputs.shape)[-2:]
        if self.degrees == 90 and height != width:
            return f"needs square frames unless degrees=180, and the task's are {height} x {width}"
        return super().misfit(spec)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        quarters = int(rng.integers(360 // self.degrees)) * (self.degrees // 90)
        return lambda values: np.rot90(values, quarters, (-2, -1))


class Noise(Transform):
    """Adds Gaussian noise: one pattern for all frames, or with `each_frame` one for each."""

    def __init__(self, std: Annotated[float, Gt(0)] = 0.1, each_frame: bool = False):
        self.std = std
        self.in_time = each_frame

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        noise = rng.standard_normal(shape if self.in_time else (1, *shape[1:]), dtype=np.float32)
        return lambda values: values + np.float32(self.std) * noise


class Erase(SpatialTransform):
    """Overwrites a random rectangle by `value` with a chance of `chance` (Zhong et al. 2020).

    Each side has at least one pixel, and at most the fraction `largest` of the frame's. Targets do
    not change.
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

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        if rng.random() >= self.chance:
            return _unchanged
        rows, columns = (_window(rng, n, self.largest * n) for n in shape[-2:])

        def change(values: store.Array) -> store.Array:
            values[..., rows, columns] = self.value
            return values

        return change


class TimeTransform(Transform):
    """Acts along time, over durations in ms."""

    in_time = True

    def misfit(self, spec: TaskSpec) -> str:
        if not spec.has_time_step:
            return "needs a time step, and the task's steps have no unit of time"
        return super().misfit(spec)


class TimeShift(TimeTransform):
    """Moves the sequence in time by a whole number of frames, up to `max_ms`; filled with zeros.

    Targets of every step move with it; they are filled with zeros, or steps without a class.
    """

    joint = ("class_sequence", "value_sequence")

    def __init__(self, max_ms: Annotated[float, Gt(0)] = 20.0):
        self.max_ms = max_ms

    def misfit(self, spec: TaskSpec) -> str:
        if spec.teacher is not None:
            return "would move the inputs, but not the teacher's trajectories"
        if spec.targets.kind not in ("class", "value", *self.joint):
            return f"would move the inputs, but not the targets ({spec.targets.kind})"
        return super().misfit(spec)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        assert dt_ms is not None
        most = int(self.max_ms / dt_ms)
        later, earlier = _overlap(int(rng.integers(-most, most, endpoint=True)), shape[0])

        def change(values: store.Array) -> store.Array:
            moved = np.full_like(values, _blank(values))
            moved[later] = values[earlier]
            return moved

        return change


class TimeMask(TimeTransform):
    """Blanks all inputs for up to `max_ms` with a chance of `chance` (Park et al. 2019).

    With `mask_labels` the blank steps have no class, so that they do not count in the loss.
    """

    def __init__(
        self,
        max_ms: Annotated[float, Gt(0)] = 50.0,
        chance: Chance = 0.5,
        mask_labels: bool = False,
    ):
        self.max_ms = max_ms
        self.chance = chance
        self.joint = ("class_sequence",) if mask_labels else ()

    def misfit(self, spec: TaskSpec) -> str:
        if spec.targets.kind == "token":
            return "would blank symbols that are targets too"
        if self.joint and spec.targets.kind not in self.joint:
            return f"has mask_labels=true for a class per step; targets are '{spec.targets.kind}'"
        return super().misfit(spec)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, dt_ms: float | None) -> Change:
        assert dt_ms is not None
        if rng.random() >= self.chance:
            return _unchanged
        window = _window(rng, shape[0], self.max_ms / dt_ms)

        def change(values: store.Array) -> store.Array:
            values[window] = _blank(values)
            return values

        return change


def _unchanged(values: store.Array) -> store.Array:
    return values


def _blank(values: store.Array) -> float | int:
    """The value of blank places: 0, or no class."""
    return store.NO_LABEL if values.dtype.kind == "i" else 0.0


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Destination and source along an axis of `size` values that are moved by `by`."""
    by = max(-size, min(size, by))
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def _window(rng: np.random.Generator, size: int, longest: float) -> slice:
    """A random interval within an axis, of length 1 to `longest`."""
    length = int(rng.integers(1, max(1, min(size, round(longest))), endpoint=True))
    start = int(rng.integers(0, size - length, endpoint=True))
    return slice(start, start + length)
