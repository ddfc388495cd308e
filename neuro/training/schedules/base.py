"""The contract of a schedule, and how lengths within a phase are given.

A schedule returns a factor of the optimizer's peak rate, so that parameter groups keep their
ratios. Updates are counted from 0 to `span.steps - 1`; past the end the last value holds. All but
feedback schedules are pure functions of the update: a resumed run needs no state of theirs, and
they can be drawn without training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, model_validator

from neuro.config.trainer import Direction

PositiveFactor = Annotated[float, Gt(0), Le(1)]
Factor = Annotated[float, Ge(0), Le(1)]


class Span(NamedTuple):
    """The length of a phase in optimizer updates, and of one of its epochs."""

    steps: int
    steps_per_epoch: int

    def within(self, step: int) -> int:
        """The update itself, or the last one for all that come after it."""
        return min(step, self.steps - 1)


class Length(BaseModel):
    """A part of a phase: a fraction of its updates (a bare number too), epochs or steps.

    `{fraction: 0.05}` and 0.05 are the same; `{epochs: 1.5}` and `{steps: 50}` do not grow with
    the phase. A step is an optimizer update.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    fraction: Factor | None = None
    epochs: Annotated[float, Ge(0)] | None = None
    steps: Annotated[int, Ge(0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"fraction": value}
        if isinstance(value, (Mapping, cls)):
            return value
        raise ValueError("give a fraction such as 0.1, {epochs: 1} or {steps: 50}")

    @model_validator(mode="after")
    def _one_unit(self) -> Length:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of fraction, epochs, steps, not {' and '.join(given) or 'none'}; "
                "null takes one away"
            )
        return self

    def updates(self, span: Span) -> int:
        """The length in optimizer updates."""
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return round(self.epochs * span.steps_per_epoch)
        assert self.fraction is not None
        return round(self.fraction * span.steps)


class CycleLength(Length):
    """The length of a cycle: above zero, and at least two updates."""

    @model_validator(mode="after")
    def _not_empty(self) -> CycleLength:
        if not (self.fraction or self.epochs or self.steps):
            raise ValueError("a cycle must be longer than 0")
        return self

    def updates(self, span: Span) -> int:
        return max(super().updates(span), 2)


NO_WARMUP = Length(fraction=0.0)


class Schedule(ABC):
    """Factor of the peak learning rate over the updates of a phase."""

    supplied: tuple[str, ...] = ()

    #: the validated metric that `observe` receives; None: that of the trainer
    monitor: str | None = None

    @abstractmethod
    def factor(self, step: int, span: Span) -> float:
        """The factor for update `step` of a phase."""

    def problems(self, span: Span) -> Iterator[str]:
        """Problems of the schedule for a phase of this length: `key: reason`."""
        return iter(())

    def observe(self, value: float, direction: Direction, step: int, span: Span) -> None:
        """Receive the monitored value of a validation after `step` updates of the phase.

        `direction`: whether more (max) or less (min) of it is better.
        """

    def state_dict(self) -> dict[str, Any]:
        """State from observed values for checkpoints: plain numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a result of `state_dict`."""


class Warmup(Schedule):
    """A schedule that begins with a linear warm-up to the peak; its first rate is above zero.

    Of W warm-up updates the first has the factor 1/W and the last 1 (Goyal et al. 2017).
    """

    def __init__(self, warmup: Length):
        self.warmup = warmup

    def factor(self, step: int, span: Span) -> float:
        step = span.within(step)
        warmup = self.warmup.updates(span)
        if step < warmup:
            return (step + 1) / warmup
        return self._after_warmup(step - warmup, span.steps - warmup, span)

    @abstractmethod
    def _after_warmup(self, step: int, steps: int, span: Span) -> float:
        """The factor at update `step` of the `steps` that follow the warm-up."""

    def problems(self, span: Span) -> Iterator[str]:
        warmup = self.warmup.updates(span)
        if warmup >= span.steps > 1:
            yield (
                f"warmup: takes {warmup} updates, and the phase has only {span.steps}. "
                "Make it shorter, or the phase longer."
            )


class FeedbackSchedule(Warmup):
    """A schedule that reacts to the monitored metric: its factor is a level that validations move.

    The level is bounded by `min_factor` and `max_factor`. What has been seen is a plain mapping
    that checkpoints keep. During the warm-up the best value is noted and nothing else happens.
    `monitor` is the metric; None: that of the trainer.
    """

    def __init__(
        self, warmup: Length, min_factor: float, max_factor: float, monitor: str | None = None
    ):
        super().__init__(warmup)
        self.monitor = monitor
        if not min_factor <= 1 <= max_factor:
            raise ValueError(
                f"min_factor ({min_factor}) and max_factor ({max_factor}) must have 1, the peak "
                "rate that training starts with, between them"
            )
        self.min_factor = min_factor
        self.max_factor = max_factor
        self.level = 1.0
        self.best: float | None = None

    def observe(self, value: float, direction: Direction, step: int, span: Span) -> None:
        """As the contract says; NaN and infinity are never an improvement."""
        score = value if direction == "max" else -value
        if step >= self.warmup.updates(span):
            level = self.level * self._reaction(score)
            self.level = min(max(level, self.min_factor), self.max_factor)
        if math.isfinite(score) and (self.best is None or score > self.best):
            self.best = score

    def _after_warmup(self, step: int, steps: int, span: Span) -> float:
        return self.level

    @abstractmethod
    def _reaction(self, score: float) -> float:
        """What a score (more is better) multiplies the level by; `best` is that of those before."""

    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
