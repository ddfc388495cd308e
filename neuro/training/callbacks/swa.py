"""Stochastic weight averaging: the mean of the weights at the ends of a phase's last epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn, update_bn

from neuro.data.base import Batch
from neuro.training.callbacks.averaging import WeightAverage
from neuro.training.callbacks.base import Setup, TrainerView
from neuro.training.phases import PhasePlan


class SWA(WeightAverage):
    """Equal average of the weights after every `every_epochs`-th epoch from a start on.

    The first average is taken after epoch `start_epoch + 1`; where that is None, a share of
    `start_fraction` of the phase's epochs goes before. An epoch that the phase's end cuts short
    counts. `lr` is the learning rate from the start on, instead of the schedule's. The average is
    validated as `val_swa/...` and at the end of the phase saved as `checkpoints/swa`, with
    normalisation layers recalibrated on the phase's training data (Izmailov et al. 2018).
    """

    name = "swa"

    def __init__(
        self,
        start_fraction: Annotated[float, Ge(0), Lt(1)] = 0.75,
        start_epoch: Annotated[int, Ge(0)] | None = None,
        every_epochs: Annotated[int, Gt(0)] = 1,
        lr: Annotated[float, Gt(0)] | None = None,
        final: bool = False,
    ):
        super().__init__(final)
        self.start_fraction = start_fraction
        self.start_epoch = start_epoch
        self.every_epochs = every_epochs
        self.lr = lr

    def check(self, setup: Setup) -> Iterator[str]:
        for phase in setup.plan:
            if self.start_epoch is not None and self.start_epoch >= phase.epochs:
                yield (
                    f"start_epoch: got {self.start_epoch}, but phase '{phase.name}' has "
                    f"{phase.epochs} epochs; begin earlier, or give start_fraction."
                )

    def on_fit_start(self, trainer: TrainerView) -> None:
        self._hold_rate(trainer, trainer.progress.epoch)

    def on_phase_start(self, trainer: TrainerView) -> None:
        super().on_phase_start(trainer)
        self._hold_rate(trainer, 0)

    def on_epoch_end(self, trainer: TrainerView) -> None:
        self._count_epoch(trainer)
        self._hold_rate(trainer, trainer.progress.epoch + 1)

    def _count_epoch(self, trainer: TrainerView) -> None:
        past = trainer.progress.epoch - self.start(trainer.phase)
        if past >= 0 and past % self.every_epochs == 0:
            self._update(trainer)

    def start(self, phase: PhasePlan) -> int:
        """Epochs of a phase before its first average."""
        if self.start_epoch is not None:
            return self.start_epoch
        return int(self.start_fraction * phase.epochs)

    def _hold_rate(self, trainer: TrainerView, epoch: int) -> None:
        """Set the learning rate of an epoch, or leave it to the schedule."""
        trainer.override_lr(self.lr if epoch >= self.start(trainer.phase) else None)

    def _merge(self, current: list[Tensor]) -> None:
        get_swa_multi_avg_fn()(self._average, current, self._count)

    def on_training_end(self, trainer: TrainerView) -> None:
        trainer.override_lr(None)
        if trainer.progress.batch > 0:
            self._count_epoch(trainer)
        super().on_training_end(trainer)

    @contextmanager
    def _in_place(self, trainer: TrainerView) -> Iterator[None]:
        with super()._in_place(trainer):
            # random layers must not change the random numbers of training
            with torch.random.fork_rng():
                update_bn(_inputs(trainer), _Forward(trainer.model))
            yield


class _Forward(nn.Module):
    """Adapter for `update_bn`, which calls a model with one argument that must not be a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, given: Mapping[str, Batch]) -> None:
        batch = given["batch"]
        self.model(batch.sequence(), dt_ms=batch.dt_ms)


def _inputs(trainer: TrainerView) -> Iterable[dict[str, Batch]]:
    """All training data of the phase, the same on every process."""
    for batch in trainer.phase.own.batches():
        yield {"batch": batch._replace(inputs=batch.inputs.to(trainer.device))}
