"""Stops hopeless trials of an Optuna search early, by what their validations show.

The sweep tells a trial through the environment which study it belongs to, so that no database
password gets into a trial's files. Each validation reports the monitored metric; the pruner
compares it with what other trials had at the same update.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from neuro.errors import ConfigError, TrialPruned
from neuro.training.callbacks.base import Callback

if TYPE_CHECKING:
    from neuro.training.trainer import Trainer

#: environment variables: the study as JSON (storage, name), and the number of this trial
STUDY_VARIABLE = "NEURO_STUDY"
TRIAL_VARIABLE = "NEURO_TRIAL"

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

    def on_fit_start(self, trainer: Trainer) -> None:
        if not {STUDY_VARIABLE, TRIAL_VARIABLE} <= os.environ.keys():
            raise ConfigError(
                "callbacks.pruning: this run is no trial of a search. Leave it out, or start a "
                "search: python launch.py -m sweep=..."
            )
        if trainer.fabric.world_size > 1:
            raise ConfigError("callbacks.pruning: a trial runs in one process; hardware.devices=1.")
        import optuna

        study = json.loads(os.environ[STUDY_VARIABLE])
        found = optuna.load_study(
            study_name=study["name"], storage=study["storage"], pruner=self._make()
        )
        if len(found.directions) > 1:
            raise ConfigError("callbacks.pruning: a search of several objectives cannot prune.")
        number = int(os.environ[TRIAL_VARIABLE])
        self._trial = optuna.trial.Trial(
            found, found._storage.get_trial_id_from_study_id_trial_number(found._study_id, number)
        )

    def on_validation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
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
