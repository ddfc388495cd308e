"""Learning-rate schedules as pure functions of the update number.

A schedule answers with a factor of the optimizer's peak rate, so parameter groups keep their
ratios, a resumed run needs no scheduler state, and a schedule can be drawn without training.
Updates are counted from 0 to `total_steps - 1`; past the end the last value holds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt


class Schedule(ABC):
    """Factor of the peak learning rate over the updates of a phase."""

    supplied: tuple[str, ...] = ()

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """The factor for update `step` of `total_steps`."""


class Constant(Schedule):
    """The peak rate throughout."""

    def factor(self, step: int, total_steps: int) -> float:
        return 1.0


class Cosine(Schedule):
    """Linear warm-up, then half a cosine down to `min_factor` (Loshchilov and Hutter 2017).

    The first warm-up update already has a rate above zero.
    """

    def __init__(
        self,
        warmup: Annotated[float, Ge(0), Lt(1)] = 0.05,
        min_factor: Annotated[float, Ge(0), Le(1)] = 0.0,
    ):
        self.warmup = warmup
        self.min_factor = min_factor

    def factor(self, step: int, total_steps: int) -> float:
        warmup_steps = round(self.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = _progress(step - warmup_steps, total_steps - warmup_steps)
        return self.min_factor + (1 - self.min_factor) * 0.5 * (1 + math.cos(math.pi * done))


class OneCycle(Schedule):
    """One rise from peak/div_factor to the peak and one fall to peak/final_div_factor.

    Smith and Topin 2018. `anneal` shapes both legs. As torch's OneCycleLR, but the end is a
    fraction of the peak where torch divides the start.
    """

    def __init__(
        self,
        pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3,
        div_factor: Annotated[float, Ge(1)] = 25.0,
        final_div_factor: Annotated[float, Ge(1)] = 1e4,
        anneal: Literal["cosine", "linear"] = "cosine",
    ):
        self.pct_start = pct_start
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.anneal = anneal

    def factor(self, step: int, total_steps: int) -> float:
        start, end = 1 / self.div_factor, 1 / self.final_div_factor
        peak_step = self.pct_start * total_steps - 1
        if step < peak_step:
            return self._between(start, 1.0, step / peak_step)
        rest = max(total_steps - 1 - peak_step, 1e-12)
        return self._between(1.0, end, min((step - peak_step) / rest, 1.0))

    def _between(self, first: float, last: float, done: float) -> float:
        if self.anneal == "linear":
            return first + (last - first) * done
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def _progress(step: int, total_steps: int) -> float:
    """How much of `total_steps` is done at update `step`: 0 at the first, 1 from the last on."""
    return min(step / (total_steps - 1), 1.0) if total_steps > 1 else 0.0
