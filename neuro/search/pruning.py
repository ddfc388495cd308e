"""Stops hopeless trials of an Optuna search early, by what their validations show.

The sweep tells a trial through the environment which study it belongs to. Each validation reports
the monitored metric; the pruner compares it with what other trials had at the same update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from neuro.errors import ConfigError, TrialPruned
from neuro.search.storage import own_trial
from neuro.training.callbacks.base import Callback, TrainerView

Count = Annotated[int, Ge(0)]


class Pruning(Callback):
    """Prunes by `pruner`: "median" (worse than the median of the others) or "halving".

    - `startup_trials`: median: complete trials that must be stored before any is pruned
    - `warmup_steps`: median: updates before which no trial is pruned
    - `min_steps`, `reduction`: successive halving (Li et al. 2018, asynchronous): updates of the
      first rung, and the factor from rung to rung, of which the best 1/factor go on
    """

    def __init__(
        self,
        pruner: Literal["median", "halving"] = "median",
        startup_trials: Count = 4,
        warmup_steps: Count = 0,
        min_steps: Annotated[int, Gt(0)] = 10,
        reduction: Annotated[int, Gt(1)] = 3,
    ):
        self.pruner = pruner
        self.startup_trials = startup_trials
        self.warmup_steps = warmup_steps
        self.min_steps = min_steps
        self.reduction = reduction
        self._trial: Any = None

    def on_fit_start(self, trainer: TrainerView) -> None:
        self._trial = own_trial(self._make())
        if self._trial is None:
            raise ConfigError(
                "callbacks.pruning: this run is no trial of a search. Leave it out, or start a "
                "search: python launch.py -m sweep=..."
            )
        if trainer.world_size > 1:
            raise ConfigError("callbacks.pruning: a trial runs in one process; hardware.devices=1.")
        if len(self._trial.study.directions) > 1:
            raise ConfigError("callbacks.pruning: a search of several objectives cannot prune.")

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        value, step = metrics.get(trainer.settings.monitor), trainer.progress.step
        if value is None:
            return
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise TrialPruned(
                f"{trainer.settings.monitor} {value:.4g} after update {step} is hopeless among the "
                "other trials."
            )

    def _make(self) -> Any:
        import optuna

        if self.pruner == "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup_steps
            )
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.min_steps, reduction_factor=self.reduction
        )
