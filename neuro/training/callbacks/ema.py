"""Exponential moving average of the weights, validated beside the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from neuro.training.callbacks.averaging import WeightAverage
from neuro.training.callbacks.base import Setup, TrainerView


class EMA(WeightAverage):
    """After each update `average <- d * average + (1 - d) * weights`.

    With `ramp`, `d = min(decay, (1 + n) / (10 + n))` after n averages, so that the first weights
    lose their influence soon (Polyak and Juditsky 1992; the ramp is TensorFlow's). The average
    starts as a copy of the weights, after `start_epoch` epochs and `start_step` updates of each
    phase. Skipped updates do not count. Validated as `val_ema/...`, saved as `checkpoints/ema`.
    """

    name = "ema"

    def __init__(
        self,
        decay: Annotated[float, Gt(0), Lt(1)] = 0.999,
        ramp: bool = True,
        start_epoch: Annotated[int, Ge(0)] = 0,
        start_step: Annotated[int, Ge(0)] = 0,
        final: bool = False,
    ):
        super().__init__(final)
        self.decay = decay
        self.ramp = ramp
        self.start_epoch = start_epoch
        self.start_step = start_step

    def check(self, setup: Setup) -> Iterator[str]:
        for phase in setup.plan:
            if self.start_epoch >= phase.epochs:
                yield (
                    f"start_epoch: got {self.start_epoch}, but phase '{phase.name}' has "
                    f"{phase.epochs} epochs; begin earlier."
                )
            if self.start_step >= phase.total_steps:
                yield (
                    f"start_step: got {self.start_step}, but phase '{phase.name}' has "
                    f"{phase.total_steps} updates; begin earlier."
                )

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        progress = trainer.progress
        begun = progress.epoch >= self.start_epoch and progress.phase_step > self.start_step
        if begun and progress.skipped_in_a_row == 0:
            self._update(trainer)

    def _merge(self, current: list[Tensor]) -> None:
        decay, n = self.decay, self._count - 1
        if self.ramp:
            decay = min(decay, (1 + n) / (10 + n))
        get_ema_multi_avg_fn(decay)(self._average, current, n)
