"""Schedules that decrease once, after an optional warm-up.

In all of them `done` is the finished fraction of the updates after the warm-up: 0 at the first of
them and 1 at the last update of the phase, which therefore has exactly the configured end value.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

from annotated_types import Gt

from neuro.training.schedules.base import (
    NO_WARMUP,
    Factor,
    Length,
    PositiveFactor,
    Schedule,
    Span,
    Warmup,
)
from neuro.training.schedules.cycles import Restarts

SHORT_WARMUP = Length(fraction=0.05)


class Constant(Schedule):
    """The peak rate at every update."""

    def factor(self, step: int, span: Span) -> float:
        return 1.0


class Decay(Warmup):
    """From the peak down to the fraction `min_factor` of it."""

    def __init__(self, warmup: Length, min_factor: float):
        super().__init__(warmup)
        self.min_factor = min_factor

    def _after_warmup(self, step: int, steps: int, span: Span) -> float:
        done = step / (steps - 1) if steps > 1 else 0.0
        return self._to_minimum(done)

    def _to_minimum(self, done: float) -> float:
        return self.min_factor + (1 - self.min_factor) * self._shape(done)

    @abstractmethod
    def _shape(self, done: float) -> float:
        """A curve from 1 at `done` = 0 to 0 at 1."""


class Linear(Decay):
    """A straight line, or with `log_space` one in the logarithm of the rate."""

    def __init__(
        self,
        warmup: Length = NO_WARMUP,
        min_factor: Factor = 0.01,
        log_space: bool = False,
    ):
        super().__init__(warmup, min_factor)
        if log_space and min_factor == 0:
            raise ValueError("log_space=true needs min_factor > 0; no line in log space reaches 0")
        self.log_space = log_space

    def _to_minimum(self, done: float) -> float:
        return self.min_factor**done if self.log_space else super()._to_minimum(done)

    def _shape(self, done: float) -> float:
        return 1 - done


class Cosine(Decay):
    """Half a cosine (Loshchilov and Hutter 2017); with `restarts` once per cycle.

    A cycle's amplitude is what lies between its top and `min_factor`; as in torch, a cycle that is
    followed by another ends one update before it would reach the minimum.
    """

    def __init__(
        self,
        warmup: Length = SHORT_WARMUP,
        min_factor: Factor = 0.0,
        restarts: Restarts | None = None,
    ):
        super().__init__(warmup, min_factor)
        self.restarts = restarts

    def _after_warmup(self, step: int, steps: int, span: Span) -> float:
        if self.restarts is None:
            return super()._after_warmup(step, steps, span)
        cycle, done = self.restarts.position(step, span)
        amplitude = (1 - self.min_factor) * self.restarts.decay**cycle
        return self.min_factor + amplitude * self._shape(done)

    def _shape(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


class Polynomial(Decay):
    """A power of what is left, (1 - done)^power: 1 is a line, more falls faster at first."""

    def __init__(
        self,
        power: Annotated[float, Gt(0)] = 2.0,
        warmup: Length = NO_WARMUP,
        min_factor: Factor = 0.0,
    ):
        super().__init__(warmup, min_factor)
        self.power = power

    def _shape(self, done: float) -> float:
        return float((1 - done) ** self.power)


class Exponential(Linear):
    """The same factor per update, chosen so that the last update has `end_factor` of the peak."""

    def __init__(self, end_factor: PositiveFactor = 0.01, warmup: Length = NO_WARMUP):
        super().__init__(warmup, end_factor, log_space=True)


class Rex(Decay):
    """Reflected exponential: (1 - done) / (1/2 + (1 - done) / 2), Chen et al. 2022.

    It stays high for longer than a line and falls the faster at the end.
    """

    def __init__(self, warmup: Length = NO_WARMUP, min_factor: Factor = 0.0):
        super().__init__(warmup, min_factor)

    def _shape(self, done: float) -> float:
        return (1 - done) / (0.5 + 0.5 * (1 - done))
