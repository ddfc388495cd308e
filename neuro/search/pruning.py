"""A callback that stops unpromising trials of an Optuna study early.

Most pruners compare the monitored metric of each validation with that of other trials at the same
update. The Wilcoxon pruner compares the objectives of finished repeats with those of the best
trial, seed by seed. The trial of this process comes from an environment variable that the sweep
sets.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Lt

from neuro.config.types import CountFromZero
from neuro.errors import ConfigError, TrialPruned
from neuro.runs.report import Report
from neuro.search.storage import MEAN_SO_FAR, OBJECTIVES, current_trial
from neuro.training.callbacks.base import Callback, TrainerView

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial


class Pruning(Callback):
    """Prunes trials by their values of `trainer.monitor`, or by the objectives of their repeats.

    - `pruner`: `median` prunes a trial whose best value is worse than the median of the other
      trials at the same update; `patient` does so only after `patience` validations without a
      better value; `halving` is asynchronous successive halving (Li et al. 2018,
      arXiv:1810.05934); `hyperband` runs it with several first rungs (Li et al. 2016,
      arXiv:1603.06560); `wilcoxon` prunes a trial with `repeats` above 1 whose repeats are worse
      than those of the best trial with the same seeds (Wilcoxon 1945, signed-rank test, one-sided)
    - `startup_trials`: of `median`, `patient`: complete trials before the first pruning
    - `warmup_steps`: of `median`, `patient`: updates of a trial before it can be pruned
    - `patience`: of `patient`: validations
    - `min_steps`: of `halving`, `hyperband`: updates of the first rung
    - `reduction`: of `halving`, `hyperband`: factor between the updates of two rungs; the best
      1/reduction of the trials of a rung continue
    - `p_threshold`: of `wilcoxon`: largest p-value with which a trial is pruned
    - `startup_repeats`: of `wilcoxon`: repeats of a trial before it can be pruned

    ConfigError at the start of training if the run is not a trial, if the study has several
    objectives, or if the trial uses several processes. TrialPruned ends a pruned trial.
    """

    def __init__(
        self,
        pruner: Literal["median", "patient", "halving", "hyperband", "wilcoxon"] = "median",
        startup_trials: CountFromZero = 4,
        warmup_steps: CountFromZero = 0,
        patience: CountFromZero = 3,
        min_steps: Annotated[int, Gt(0)] = 10,
        reduction: Annotated[int, Gt(1)] = 3,
        p_threshold: Annotated[float, Gt(0), Lt(1)] = 0.1,
        startup_repeats: CountFromZero = 2,
    ):
        self.pruner = pruner
        self.startup_trials = startup_trials
        self.warmup_steps = warmup_steps
        self.patience = patience
        self.min_steps = min_steps
        self.reduction = reduction
        self.p_threshold = p_threshold
        self.startup_repeats = startup_repeats
        self._trial: Trial | None = None
        self._values: list[float] = []  # objectives of the repeats so far

    @property
    def compares_repeats(self) -> bool:
        """Whether the pruner compares repeats of trials, instead of validations within a run."""
        return self.pruner == "wilcoxon"

    def problem(self, key: str, repeats: int) -> str | None:
        """Why trials of this many repeats cannot be pruned; None if they can.

        - `key`: of the callback in the config
        """
        if not self.compares_repeats:
            if repeats == 1:
                return None
            return (
                f"repeats: got {repeats}, but {key}.pruner={self.pruner} compares validations of "
                f"trials of one run. Use {key}.pruner=wilcoxon, which compares repeats, or "
                f"repeats=1, or remove the callback: '~{key}'."
            )
        if repeats == 1:
            return (
                f"{key}.pruner: got wilcoxon, which compares the repeats of trials, but repeats=1. "
                f"Set repeats=8, or use {key}.pruner=median, which compares validations."
            )
        # the signed-rank test of n pairs, all of which are worse, has the p-value 2^-n
        earliest = max(self.startup_repeats, 2, math.floor(-math.log2(self.p_threshold)) + 1)
        if repeats <= earliest:
            return (
                f"{key}: got repeats={repeats}, but with p_threshold={self.p_threshold:g} and "
                f"startup_repeats={self.startup_repeats} a trial can be pruned only after "
                f"{earliest}. Set repeats={2 * earliest}, or a larger p_threshold."
            )
        return None

    def on_fit_start(self, trainer: TrainerView) -> None:
        if trainer.world_size > 1:
            raise ConfigError(
                "callbacks.pruning: pruned trials need a single process; use hardware.devices=1."
            )
        self._trial = self._connect()

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        value, step = metrics.get(trainer.settings.monitor), trainer.progress.step
        if value is None or self.compares_repeats:
            return
        assert self._trial is not None, "on_fit_start was not called"
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise TrialPruned(
                f"{trainer.settings.monitor}={value:.4g} after update {step}: the pruner "
                f"'{self.pruner}' stops this trial."
            )

    def on_repeat_end(self, number: int, repeats: int, report: Report) -> None:
        """Report a repeat's objective; TrialPruned if the repeats so far are worse than the best.

        The last repeat is only reported, since there is nothing left to save.
        """
        if not self.compares_repeats:
            return
        trial = self._trial = self._trial or self._connect()
        metric = trial.study.user_attrs[OBJECTIVES][0]
        value = report.metrics.get(metric)
        if value is None or not math.isfinite(value):
            return  # the sweep records the trial as failed
        trial.report(value, number)
        self._values.append(value)
        if number + 1 < repeats and trial.should_prune():
            mean = statistics.fmean(self._values)
            trial.set_user_attr(MEAN_SO_FAR, mean)
            raise TrialPruned(
                f"{metric}={mean:.4g} over {number + 1} of {repeats} repeats: the pruner "
                f"'{self.pruner}' stops this trial."
            )

    def _connect(self) -> Trial:
        """The trial of this process. ConfigError if there is none, or with several objectives."""
        trial = current_trial(self._create_pruner())
        if trial is None:
            raise ConfigError(
                "callbacks.pruning: this run is not a trial of a study. Remove the callback, or "
                "start a sweep: python launch.py -m sweep=..."
            )
        if len(trial.study.directions) > 1:
            raise ConfigError(
                "callbacks.pruning: a study with several objectives cannot prune. Remove the "
                "callback: '~callbacks.pruning'."
            )
        return trial

    def _create_pruner(self) -> BasePruner:
        from optuna import pruners
        from optuna.exceptions import ExperimentalWarning

        median = pruners.MedianPruner(
            n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup_steps
        )
        with warnings.catch_warnings():  # PatientPruner and WilcoxonPruner, since 2021 and 2024
            warnings.simplefilter("ignore", ExperimentalWarning)
            match self.pruner:
                case "median":
                    return median
                case "patient":
                    return pruners.PatientPruner(median, self.patience)
                case "hyperband":
                    return pruners.HyperbandPruner(self.min_steps, reduction_factor=self.reduction)
                case "halving":
                    return pruners.SuccessiveHalvingPruner(
                        min_resource=self.min_steps, reduction_factor=self.reduction
                    )
                case "wilcoxon":
                    return pruners.WilcoxonPruner(
                        p_threshold=self.p_threshold, n_startup_steps=self.startup_repeats
                    )
