"""Weights of loss terms that change over training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, model_validator

from neuro.data.base import Batch
from neuro.errors import nearest
from neuro.training.annealing import (
    Epoch,
    between,
    check_epochs,
    check_shape,
    epochs_done,
    share_done,
)
from neuro.training.callbacks.base import Callback, Setup, TrainerView


class WeightSchedule(BaseModel):
    """The weight of one term, in place of the one that it was given in `loss`.

    `sinusoidal` swings from `start` to `end` and back once every `period_epochs`; the others go
    there once. Before `start_epoch` and after `end_epoch` of each phase the value is held.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    term: str
    shape: Literal["linear", "exponential", "cosine", "sinusoidal"] = "linear"
    start: Annotated[float, Ge(0)] = 0.0
    end: Annotated[float, Ge(0)] = 1.0
    start_epoch: Epoch = 0.0
    end_epoch: Epoch = 1.0
    period_epochs: Annotated[float, Gt(0)] = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> WeightSchedule:
        check_epochs(self.start_epoch, self.end_epoch)
        check_shape(self.shape, self.start, self.end)
        return self

    def weight(self, trainer: TrainerView) -> float:
        """The weight for the coming update."""
        if self.shape != "sinusoidal":
            done = share_done(trainer, self.start_epoch, self.end_epoch)
            return between(self.shape, self.start, self.end, done)
        since = min(max(epochs_done(trainer), self.start_epoch), self.end_epoch) - self.start_epoch
        swing = 0.5 * (1 - math.cos(2 * math.pi * since / self.period_epochs))
        return self.start + (self.end - self.start) * swing


class LossWeights(Callback):
    """Sets the weights of terms before every update; logged as `train/weight/<term>`."""

    def __init__(self, schedules: Annotated[tuple[WeightSchedule, ...], MinLen(1)]):
        terms = [schedule.term for schedule in schedules]
        if twice := [term for term in dict.fromkeys(terms) if terms.count(term) > 1]:
            raise ValueError(f"schedules: '{twice[0]}' has more than one")
        self.schedules = schedules

    def check(self, setup: Setup) -> Iterator[str]:
        terms = setup.objective.named_terms()
        for i, schedule in enumerate(self.schedules):
            if schedule.term not in terms:
                yield (
                    f"schedules.{i}.term: got '{schedule.term}'; the loss has no such term. "
                    f"Its terms: {', '.join(terms)}.{nearest(schedule.term, terms)}"
                )

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        terms = trainer.objective.named_terms()
        for schedule in self.schedules:
            terms[schedule.term].weight = schedule.weight(trainer)
        return batch

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if metrics:
            terms = trainer.objective.named_terms()
            names = [schedule.term for schedule in self.schedules]
            weights = {f"train/weight/{name}": terms[name].weight for name in names}
            trainer.log(weights)
