"""Early stopping: end a phase that no longer improves, and restore its best weights.

The best value is tracked from the first validation on, also in the warm-up; validations count
towards `patience` only after it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from neuro.errors import nearest
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.swa import SWA
from neuro.training.schedules import OneCycle

log = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """Ends the phase (not the run) when the monitored value no longer improves.

    - `monitor`: the metric to monitor; None: that of the trainer
    - `mode`: the better direction of it, `min` or `max`; None: `max` for a metric of which more is
      better, such as accuracy, else `min`
    - `patience`: validations, or epochs of the phase, without an improvement of more than
      `min_delta`, which is `absolute` or `percent` of the best value (0.1 is 0.1 %)
    - `warmup_epochs`: first epochs of the phase, whose validations do not count towards `patience`;
      in them only a value that is not finite stops the phase
    - `min_lr`: stop when the learning rate has fallen below this
    - `divergence`: stop when the value is this many times worse than a positive best: above
      `divergence * best` (min) or below `best / divergence` (max). A value that is not finite
      always stops, at once
    - `restore_best`: the phase ends with the weights of the best value, stopped early or not
      (which overrides `phase.<name>.carry.weights`); of an average's metric, the average
    """

    def __init__(
        self,
        monitor: str | None = "val/loss",
        mode: Literal["min", "max"] | None = None,
        patience: Annotated[int, Gt(0)] = 10,
        patience_unit: Literal["validations", "epochs"] = "validations",
        warmup_epochs: Annotated[int, Ge(0)] = 0,
        min_delta: Annotated[float, Ge(0)] = 0.0,
        delta_unit: Literal["absolute", "percent"] = "absolute",
        min_lr: Annotated[float, Gt(0)] | None = None,
        divergence: Annotated[float, Gt(1)] | None = None,
        restore_best: bool = True,
    ):
        self.monitor = monitor
        self.mode = mode
        self.patience = patience
        self.patience_unit = patience_unit
        self.warmup_epochs = warmup_epochs
        self.min_delta = min_delta
        self.delta_unit = delta_unit
        self.min_lr = min_lr
        self.divergence = divergence
        self.restore_best = restore_best
        self._start()

    def _start(self) -> None:
        self._best: float | None = None
        self._reference: float | None = None  # the last value that was better by min_delta
        self._failures = 0  # validations since then, without those in the warm-up
        self._improved_at = 0  # update of the phase at which _reference was measured
        self._rate_was_higher = False
        self._weights: dict[str, Tensor] = {}  # at the best value

    def check(self, setup: Setup) -> Iterator[str]:
        monitor, validated = self.monitor or setup.settings.monitor, setup.validated
        if not validated:
            yield "monitor: nothing is validated; set trainer.validation.epochs=1."
        elif monitor not in validated:
            yield (
                f"monitor: this run validates no '{monitor}'. Allowed: {', '.join(validated)}."
                + nearest(monitor, validated)
            )

    def notes(self, setup: Setup) -> Iterator[str]:
        every = setup.settings.validation.epochs
        if every is None:
            return
        patience = self.patience * (every if self.patience_unit == "validations" else 1)
        earliest = self.warmup_epochs + max(patience, every)
        for phase in setup.plan:
            if earliest >= phase.epochs:
                continue
            stop = f"may end phase '{phase.name}' after epoch {earliest} of {phase.epochs}"
            for name, callback in setup.callbacks.items():
                if isinstance(callback, SWA) and earliest <= callback.start(phase):
                    yield (
                        f"{stop}, before callbacks.{name} averages anything (its start is after "
                        f"epoch {callback.start(phase)}); raise warmup_epochs, or start it earlier."
                    )
            if isinstance(phase.schedule, OneCycle):
                yield f"{stop}, in the middle of the one cycle of its rate; raise warmup_epochs."

    def on_phase_start(self, trainer: TrainerView) -> None:
        self._start()

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self.min_lr is None:
            return
        if trainer.lr >= self.min_lr:
            self._rate_was_higher = True  # a schedule's warm-up may start below min_lr
        elif self._rate_was_higher and self._past_warmup(trainer):
            self._stop(trainer, f"the learning rate fell below {self.min_lr:g}")

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        name = self.monitor or trainer.settings.monitor
        mode = self.mode or trainer.settings.direction_of(name)
        value = metrics.get(name)
        if value is None:
            return
        if not math.isfinite(value):
            self._stop(trainer, f"{name} is {value}")
            return
        if self._best is None or _better(value, self._best, mode):
            self._best = value
            if self.restore_best:
                with trainer.validated_weights(name):
                    weights = trainer.model.state_dict()
                    self._weights = {key: value.detach().clone() for key, value in weights.items()}
        if self._improved(value, mode):
            self._reference, self._failures = value, 0
            self._improved_at = trainer.progress.phase_step
        elif self._past_warmup(trainer):
            self._failures += 1
        if not self._past_warmup(trainer):
            return
        failures = self._failures
        if self.patience_unit == "epochs":
            since = max(self._improved_at, self._warmup_steps(trainer))
            failures = (trainer.progress.phase_step - since) // trainer.phase.steps_per_epoch
        if self._diverged(value, mode):
            self._stop(trainer, f"{name} diverged: {value:.4g} after {self._best:.4g}")
        elif failures >= self.patience:
            self._stop(trainer, f"{name} did not improve in {failures} {self.patience_unit}")

    def _improved(self, value: float, mode: str) -> bool:
        """True if a value is better than the reference by min_delta, or the first one."""
        if self._reference is None:
            return True
        delta = self.min_delta
        if self.delta_unit == "percent":
            delta *= abs(self._reference) / 100
        return _better(value, self._reference + (delta if mode == "max" else -delta), mode)

    def _diverged(self, value: float, mode: str) -> bool:
        """True if a value is `divergence` times worse than a positive best value."""
        if self.divergence is None or self._best is None or self._best <= 0:
            return False
        if mode == "max":
            return value < self._best / self.divergence
        return value > self._best * self.divergence

    def _past_warmup(self, trainer: TrainerView) -> bool:
        return trainer.progress.phase_step > self._warmup_steps(trainer)

    def _warmup_steps(self, trainer: TrainerView) -> int:
        return self.warmup_epochs * trainer.phase.steps_per_epoch

    def _stop(self, trainer: TrainerView, reason: str) -> None:
        if trainer.progress.stopped is None:
            trainer.stop_phase(reason)
            if trainer.is_main:
                log.info(
                    "Phase %s stopped early after update %d: %s.",
                    trainer.phase.name,
                    trainer.progress.phase_step,
                    reason,
                )

    def on_training_end(self, trainer: TrainerView) -> None:
        if self._weights:
            trainer.set_final_weights(self._weights)

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._weights = {}  # checkpoints of later phases do not hold them

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self._best,
            "reference": self._reference,
            "failures": self._failures,
            "improved_at": self._improved_at,
            "rate_was_higher": self._rate_was_higher,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best = state["best"]
        self._reference = state["reference"]
        self._failures = state["failures"]
        self._improved_at = state.get("improved_at", 0)  # older checkpoints count validations only
        self._rate_was_higher = state["rate_was_higher"]
        self._weights = state["weights"]


def _better(value: float, than: float, mode: str) -> bool:
    return value > than if mode == "max" else value < than
