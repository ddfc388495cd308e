"""Schedules that rise as well as fall: one cycle, triangles, and cosines that restart."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict

from neuro.training.schedules.base import (
    NO_WARMUP,
    CycleLength,
    Factor,
    Length,
    PositiveFactor,
    Schedule,
    Span,
    Warmup,
)

Shape = Literal["linear", "cosine"]
Growth = Annotated[float, Ge(1)]
Amplitude = Annotated[float, Gt(0), Le(1)]
FIFTH = CycleLength(fraction=0.2)


class Restarts(BaseModel):
    """Cycles after one another: the k-th is `growth`^k times as long, its amplitude `decay`^k."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    cycle: CycleLength = FIFTH
    growth: Growth = 1.0
    decay: Amplitude = 1.0

    def position(self, step: int, span: Span) -> tuple[int, float]:
        """Number of the cycle of an update, from 0, and the finished fraction of that cycle."""
        first = self.cycle.updates(span)
        if self.growth == 1:
            return step // first, step % first / first
        # k cycles take first * (growth^k - 1) / (growth - 1) updates
        ratio = step * (self.growth - 1) / first + 1
        k = int(math.log(ratio) / math.log(self.growth) + 1e-9)
        start = first * (self.growth**k - 1) / (self.growth - 1)
        return k, max(step - start, 0.0) / (first * self.growth**k)


class OneCycle(Schedule):
    """One rise from peak/div_factor to the peak and one fall to peak/final_div_factor.

    Smith and Topin 2018, "Super-Convergence". As torch's OneCycleLR, but the end is a fraction of
    the peak where torch divides the start, and each leg has a shape of its own.
    """

    def __init__(
        self,
        pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3,
        div_factor: Annotated[float, Ge(1)] = 25.0,
        final_div_factor: Annotated[float, Ge(1)] = 1e4,
        rise: Shape = "linear",
        fall: Shape = "cosine",
    ):
        self.pct_start = pct_start
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.rise = rise
        self.fall = fall

    def factor(self, step: int, span: Span) -> float:
        step = span.within(step)
        peak_step = self.pct_start * span.steps - 1
        if step < peak_step:
            return _between(1 / self.div_factor, 1.0, step / peak_step, self.rise)
        rest = max(span.steps - 1 - peak_step, 1e-12)
        done = min((step - peak_step) / rest, 1.0)
        return _between(1.0, 1 / self.final_div_factor, done, self.fall)


class Cyclical(Schedule):
    """Triangles between `min_factor` and the peak, beginning at the minimum (Smith 2017).

    Above the minimum, the k-th cycle has the amplitude 1 (triangular) or 2^-k (triangular2); in
    exp_range it is `gamma`^update. A cycle is half rise and half fall.
    """

    def __init__(
        self,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        cycle: CycleLength = FIFTH,
        min_factor: PositiveFactor = 0.1,
        gamma: Amplitude = 0.999,
    ):
        self.mode = mode
        self.cycle = cycle
        self.min_factor = min_factor
        self.gamma = gamma

    def factor(self, step: int, span: Span) -> float:
        step = span.within(step)
        cycle, within = divmod(step / self.cycle.updates(span), 1.0)
        amplitude = {
            "triangular": 1.0,
            "triangular2": 0.5**cycle,
            "exp_range": self.gamma**step,
        }[self.mode]
        height = 1 - abs(2 * within - 1)
        return self.min_factor + (1 - self.min_factor) * amplitude * height


class SGDR(Warmup):
    """Cosines that restart (Loshchilov and Hutter 2017), in cycles of C, C*t_mul, C*t_mul^2 ...

    The k-th begins at m_mul^k of the peak, and all fall to `min_factor`.
    """

    def __init__(
        self,
        cycle: CycleLength = FIFTH,
        t_mul: Growth = 1.0,
        m_mul: Amplitude = 1.0,
        min_factor: Factor = 0.0,
        warmup: Length = NO_WARMUP,
    ):
        super().__init__(warmup)
        self.min_factor = min_factor
        self._restarts = Restarts(cycle=cycle, growth=t_mul, decay=m_mul)

    def _after_warmup(self, step: int, steps: int, span: Span) -> float:
        cycle, done = self._restarts.position(step, span)
        top = max(self._restarts.decay**cycle, self.min_factor)
        return _between(top, self.min_factor, done, "cosine")


def _between(first: float, last: float, done: float, shape: Shape) -> float:
    """From `first` to `last` along a line or half a cosine."""
    if shape == "linear":
        return first + (last - first) * done
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
