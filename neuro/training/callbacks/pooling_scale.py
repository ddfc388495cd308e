"""The scale of the pooled scores over training: soft decisions first, sharp ones later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Gt

from neuro.data.base import Batch
from neuro.training.annealing import Epoch, Shape, between, check_epochs, share_done
from neuro.training.callbacks.base import Callback, TrainerView


class PoolingScale(Callback):
    """Sets `objective.scale` before every update; logged as `train/pooling_scale`.

    Before `start_epoch` and after `end_epoch` of each phase the value is held. The scale is saved
    with the objective, and what is evaluated later uses the last one.
    """

    def __init__(
        self,
        start: Annotated[float, Gt(0)] = 1.0,
        end: Annotated[float, Gt(0)] = 4.0,
        start_epoch: Epoch = 0.0,
        end_epoch: Epoch = 1.0,
        shape: Shape = "linear",
    ):
        check_epochs(start_epoch, end_epoch)
        self.start = start
        self.end = end
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.shape = shape

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        trainer.objective.scale.fill_(self._value(trainer))
        return batch

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if metrics:
            scale = float(trainer.objective.scale)
            trainer.log({"train/pooling_scale": scale})

    def _value(self, trainer: TrainerView) -> float:
        done = share_done(trainer, self.start_epoch, self.end_epoch)
        return between(self.shape, self.start, self.end, done)
