"""A callback that stops unpromising trials of an Optuna study early.

Each validation reports the monitored metric to the study; the pruner compares it with the values of
other trials at the same update. The trial of this process comes from an environment variable that
the sweep sets.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from neuro.errors import ConfigError, TrialPruned
from neuro.search.storage import current_trial
from neuro.training.callbacks.base import Callback, TrainerView

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

Count = Annotated[int, Ge(0)]


class Pruning(Callback):
    """Prunes trials by their values of `trainer.monitor`.

    - `pruner`: `median` prunes a trial whose best value is worse than the median of the other
      trials at the same update; `patient` does so only after `patience` validations without a
      better value; `halving` is asynchronous successive halving (Li et al. 2018,
      arXiv:1810.05934); `hyperband` runs it with several first rungs (Li et al. 2016,
      arXiv:1603.06560)
    - `startup_trials`: of `median`, `patient`: complete trials before the first pruning
    - `warmup_steps`: of `median`, `patient`: updates of a trial before it can be pruned
    - `patience`: of `patient`: validations
    - `min_steps`: of `halving`, `hyperband`: updates of the first rung
    - `reduction`: of `halving`, `hyperband`: factor between the updates of two rungs; the best
      1/reduction of the trials of a rung continue

    ConfigError at the start of training if the run is not a trial, if the study has several
    objectives, or if the trial uses several processes. TrialPruned ends a pruned trial.
    """

    def __init__(
        self,
        pruner: Literal["median", "patient", "halving", "hyperband"] = "median",
        startup_trials: Count = 4,
        warmup_steps: Count = 0,
        patience: Count = 3,
        min_steps: Annotated[int, Gt(0)] = 10,
        reduction: Annotated[int, Gt(1)] = 3,
    ):
        self.pruner = pruner
        self.startup_trials = startup_trials
        self.warmup_steps = warmup_steps
        self.patience = patience
        self.min_steps = min_steps
        self.reduction = reduction
        self._trial: Trial | None = None

    def on_fit_start(self, trainer: TrainerView) -> None:
        trial = current_trial(self._create_pruner())
        if trial is None:
            raise ConfigError(
                "callbacks.pruning: this run is not a trial of a study. Remove the callback, or "
                "start a sweep: python launch.py -m sweep=..."
            )
        if trainer.world_size > 1:
            raise ConfigError(
                "callbacks.pruning: pruned trials need a single process; use hardware.devices=1."
            )
        if len(trial.study.directions) > 1:
            raise ConfigError(
                "callbacks.pruning: a study with several objectives cannot prune. Remove the "
                "callback: '~callbacks.pruning'."
            )
        self._trial = trial

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        value, step = metrics.get(trainer.settings.monitor), trainer.progress.step
        if value is None:
            return
        assert self._trial is not None, "on_fit_start was not called"
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise TrialPruned(
                f"{trainer.settings.monitor}={value:.4g} after update {step}: the pruner "
                f"'{self.pruner}' stops this trial."
            )

    def _create_pruner(self) -> BasePruner:
        import optuna

        median = optuna.pruners.MedianPruner(
            n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup_steps
        )
        if self.pruner == "median":
            return median
        if self.pruner == "patient":
            with warnings.catch_warnings():  # it has been experimental since 2021
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.pruners.PatientPruner(median, self.patience)
        if self.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(self.min_steps, reduction_factor=self.reduction)
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.min_steps, reduction_factor=self.reduction
        )
