"""Schedules that react to a validated metric (`monitor`, else that of the trainer).

Improvements are relative to the size of the best value so far, which works for either sign.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from neuro.config.types import Count
from neuro.training.schedules.base import (
    NO_WARMUP,
    Factor,
    FeedbackSchedule,
    Length,
    PositiveFactor,
)

Threshold = Annotated[float, Ge(0)]
Up = Annotated[float, Gt(1)]
Down = Annotated[float, Gt(0), Lt(1)]
Ceiling = Annotated[float, Ge(1)]


class Plateau(FeedbackSchedule):
    """Multiplies the rate by `decrease` after more than `patience` validations without progress.

    The counting of torch's ReduceLROnPlateau: a value is progress if it is better than the last
    one that was, by `threshold` of it (rel) or by `threshold` itself (abs); after a change
    `cooldown` validations are not counted as bad.
    """

    def __init__(
        self,
        decrease: Down = 0.1,
        patience: Annotated[int, Ge(0)] = 10,
        threshold: Threshold = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: Annotated[int, Ge(0)] = 0,
        min_factor: Factor = 0.0,
        warmup: Length = NO_WARMUP,
        monitor: str | None = None,
    ):
        super().__init__(warmup, min_factor, max_factor=1.0, monitor=monitor)
        self.decrease = decrease
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.reference: float | None = None
        self.bad = 0
        self.cooling = 0

    def _reaction(self, score: float) -> float:
        if self._is_progress(score):
            self.reference, self.bad = score, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad = 0
        if self.bad <= self.patience:
            return 1.0
        self.cooling, self.bad = self.cooldown, 0
        return self.decrease

    def _is_progress(self, score: float) -> bool:
        reference = self.best if self.reference is None else self.reference
        if reference is None or not math.isfinite(score):
            return math.isfinite(score)
        scale = abs(reference) if self.threshold_mode == "rel" else 1.0
        return score > reference + self.threshold * scale

    def state_dict(self) -> dict[str, Any]:
        own = {"reference": self.reference, "bad": self.bad, "cooling": self.cooling}
        return super().state_dict() | own


class Greedy(FeedbackSchedule):
    """Raises the rate while training gets better and lowers it while it does not.

    At the end of every window of `patience` validations: times `increase` if the best value is
    better than before the window by more than `threshold` of it, else times `decrease`.
    """

    def __init__(
        self,
        increase: Up = 1.1,
        decrease: Down = 0.9,
        patience: Count = 5,
        threshold: Threshold = 0.01,
        min_factor: Factor = 0.01,
        max_factor: Ceiling = 10.0,
        warmup: Length = NO_WARMUP,
        monitor: str | None = None,
    ):
        super().__init__(warmup, min_factor, max_factor, monitor)
        self.increase = increase
        self.decrease = decrease
        self.patience = patience
        self.threshold = threshold
        self.before: float | None = None
        self.seen = 0

    def _reaction(self, score: float) -> float:
        values = [v for v in (self.best, score) if v is not None and math.isfinite(v)]
        best = max(values, default=None)
        if self.before is None:  # what the first window is measured against
            self.before = best
            return 1.0
        self.seen += 1
        if self.seen < self.patience:
            return 1.0
        assert best is not None
        better = best > self.before + self.threshold * abs(self.before)
        self.before, self.seen = best, 0
        return self.increase if better else self.decrease

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"before": self.before, "seen": self.seen}


class Adaptive(FeedbackSchedule):
    """Faster after several improvements in a row, slower after several failures in a row.

    An improvement beats the best value so far by more than `threshold` of it. After a change of
    the rate `cooldown` validations count for neither.
    """

    def __init__(
        self,
        increase: Up = 1.2,
        decrease: Down = 0.7,
        patience_increase: Count = 3,
        patience_decrease: Count = 5,
        threshold: Threshold = 1e-4,
        cooldown: Annotated[int, Ge(0)] = 0,
        min_factor: PositiveFactor = 0.01,
        max_factor: Ceiling = 10.0,
        warmup: Length = NO_WARMUP,
        monitor: str | None = None,
    ):
        super().__init__(warmup, min_factor, max_factor, monitor)
        self.increase = increase
        self.decrease = decrease
        self.patience_increase = patience_increase
        self.patience_decrease = patience_decrease
        self.threshold = threshold
        self.cooldown = cooldown
        self.good = 0
        self.bad = 0
        self.cooling = 0

    def _reaction(self, score: float) -> float:
        if self.best is None:  # nothing to be better than
            return 1.0
        if self.cooling > 0:
            self.cooling -= 1
            return 1.0
        improved = math.isfinite(score) and score > self.best + self.threshold * abs(self.best)
        self.good, self.bad = (self.good + 1, 0) if improved else (0, self.bad + 1)
        if self.good >= self.patience_increase:
            self.good, self.cooling = 0, self.cooldown
            return self.increase
        if self.bad >= self.patience_decrease:
            self.bad, self.cooling = 0, self.cooldown
            return self.decrease
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        own = {"good": self.good, "bad": self.bad, "cooling": self.cooling}
        return super().state_dict() | own
