"""Training sequences that grow, or shrink, over the epochs of a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Gt

from neuro.data.base import Batch
from neuro.training.annealing import Epoch, check_epochs, share_done
from neuro.training.callbacks.base import Callback, TrainerView

Frames = Annotated[int, Gt(0)]


class SequenceLength(Callback):
    """Trains on sequences of `start` frames at first and `end` frames later, linearly between.

    `end` None is the data's own length. Frames that are held are held for that many steps;
    recorded sequences, and those that a teacher's trajectories go with, are cut after that many
    frames, and never longer than they are. With `scale_dt` the time that a sequence lasts stays
    the same: the time step grows as the number of steps falls, and of a recorded sequence those
    frames are taken, with their targets where there is one per frame, that are nearest to the
    middles of the new steps; of a teacher's trajectories too. Validation and tests see the data as
    it is. Logged as `train/frames`.
    """

    def __init__(
        self,
        start: Frames = 20,
        end: Frames | None = None,
        start_epoch: Epoch = 0.0,
        end_epoch: Epoch = 1.0,
        scale_dt: bool = False,
    ):
        check_epochs(start_epoch, end_epoch)
        self.start = start
        self.end = end
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.scale_dt = scale_dt
        self._frames = start

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        own = batch.steps
        done = share_done(trainer, self.start_epoch, self.end_epoch)
        end = own if self.end is None else self.end
        frames = round(self.start + (end - self.start) * done)
        given = batch.frames is None or batch.teacher is not None
        if given and not self.scale_dt:
            frames = min(frames, own)
        self._frames = frames
        per_step = trainer.objective.mapping == "seq2seq"
        if not self.scale_dt:
            return batch.part(0, frames, per_step=per_step)
        if batch.dt_ms is not None:
            batch = batch._replace(dt_ms=batch.dt_ms * own / frames)
        chosen = ((torch.arange(frames) + 0.5) * own / frames).long().to(batch.inputs.device)
        if per_step:
            batch = batch._replace(targets=batch.targets[:, chosen])
        if batch.teacher is not None:
            batch = batch._replace(teacher=batch.teacher[:, chosen])
        if batch.lengths is not None:
            batch = batch._replace(lengths=(chosen < batch.lengths[:, None]).sum(1))
        if batch.frames is not None:
            return batch._replace(frames=frames)
        return batch._replace(inputs=batch.inputs[:, chosen])

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if metrics:
            trainer.log({"train/frames": float(self._frames)})
