"""The main loop of a sweep: propose values, launch trials, record results, until n_trials are done.

Hydra's launchers run the trials. hydra-optuna-sweeper runs n_trials again on every call, reuses job
directories and cannot prune. Here:

- The study is stored, by default in the sweep's directory; the same command completes it to
  n_trials. Trials of a killed sweep do not count, and their values are queued again.
- Config and code are copied at the start (`frozen.py`).
- Configs that cover the space are composed and checked before the first trial (`precheck.py`), so
  that a wrong config ends the sweep at once. After that, a trial that crashes or diverges is
  recorded with its reason and the sweep continues, up to `max_failure_rate`. If a launcher loses a
  worker, the trials that it ran at that time fail.
- The results are written however the sweep ends.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from neuro.config.commands import launch as launch_command
from neuro.config.commands import text as quoted_text
from neuro.errors import CheckpointError, ConfigError, NeuroError, TrialPruned
from neuro.runs.metadata import without_password
from neuro.runs.report import Report
from neuro.runs.resume import config_dir_of
from neuro.runtime.signals import sigterm_as_interrupt
from neuro.search.constraints import parse_constraints
from neuro.search.frozen import (
    FrozenTask,
    freeze_code,
    freezing,
    frozen_loader,
    running_frozen,
)
from neuro.search.launchers import check_launcher, make_launcher
from neuro.search.objectives import Objectives
from neuro.search.precheck import check_trials
from neuro.search.rerun import rerun_overrides
from neuro.search.results import StudyResult, write_results, write_trials
from neuro.search.samplers import Grid, check_sampler, enqueue_grid, make_sampler
from neuro.search.settings import SweepSettings, parse_settings
from neuro.search.space import Space, parse_space
from neuro.search.storage import (
    TRIAL_VARIABLE,
    close_storage,
    remove_passwords,
    storage_url,
    trial_reference,
)
from neuro.search.study import (
    StoredStudy,
    StudySpec,
    ask,
    fail,
    failure_reason,
    finished,
    heartbeats,
    open_study,
    record_violations,
    requeue,
    requeue_stale,
    running,
)
from neuro.search.summary import print_summary, study_result, trial_rows

log = logging.getLogger("neuro")

#: seconds between two versions of trials.csv; with thousands of trials one takes part of a second
WRITE_S = 10.0

#: least number of failed trials at which max_failure_rate is checked
_MIN_FAILURES = 4


class Sweep:
    """A sweep. The keys of `settings` are documented in conf/hydra/sweeper/neuro.yaml.

    - `sampler`: see `make_sampler`

    ConfigError for wrong settings.
    """

    def __init__(self, sampler: object, **settings: object) -> None:
        self.sampler = sampler
        self.settings: SweepSettings = parse_settings(settings)
        self.constraints = parse_constraints(self.settings.constraints)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's `Sweeper.setup`."""
        self.directory = Path(config.hydra.sweep.dir).resolve()
        self.url = storage_url(self.settings.storage, self.directory)
        remove_passwords(config)
        with open_dict(config):
            config.hydra.sweep.dir = str(self.directory)
        self.master = config
        self.context = hydra_context
        self.task = task_function

    def run(self, arguments: list[str]) -> None:
        """Complete the study and write its results; `arguments` are the sweep's overrides.

        ConfigError if the sweep or a trial is configured wrongly, NeuroError if too many trials
        fail or the storage is lost, KeyboardInterrupt on Ctrl-C and SIGTERM.
        """
        space = parse_space(self.settings.params, self.settings.conditional, arguments, self.master)
        if self._is_grid():
            space.grid()  # raises if a range is continuous
        for i, values in enumerate(self.settings.enqueue):
            space.check(values, f"hydra.sweeper.enqueue[{i}]")
        check_launcher(self.master, self.settings.n_jobs)
        with freezing(self.directory):
            study, objectives = self._begin(space)
        try:
            stopped = "Sweep stopped; the same command completes it."
            with running_frozen(self.directory), sigterm_as_interrupt(stopped):
                try:
                    self._complete(study, space, objectives.names)
                finally:
                    self._write(study_result(study, objectives.names), space)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise NeuroError(
                f"hydra.sweeper.storage: lost {self.url} ({without_password(str(error))}). The "
                "same command continues with the stored trials."
            ) from error
        finally:
            close_storage(study.storage)

    def _begin(self, space: Space) -> tuple[StoredStudy, Objectives]:
        """Copy code and config, check the configs of trials, open the study."""
        search_path = self.context.config_loader.get_search_path()
        loader = frozen_loader(search_path, self.directory)
        self.context = HydraContext(loader, self.context.callbacks)
        code = freeze_code(self.directory, accept=self.settings.accept_code)
        self.launcher = make_launcher(self.master, self.context, FrozenTask(self.task, code))
        with running_frozen(self.directory):
            objectives = check_trials(space, self.settings, self.master, self.context)
        check_sampler(self.sampler, space, objectives.names)
        spec = StudySpec(
            name=self.settings.study_name or self.directory.name,
            space=space.as_text(),
            objectives=objectives.names,
            directions=objectives.directions,
            code=code,
            accept_code=self.settings.accept_code,
        )
        study = open_study(self.url, spec)
        requeue_stale(study)
        return study, objectives

    def _complete(self, study: StoredStudy, space: Space, objectives: tuple[str, ...]) -> None:
        """Run trials until n_trials of the study have finished."""
        study.sampler = make_sampler(self.sampler, len(study.trials))
        for values in self.settings.enqueue:
            study.enqueue_trial(values, skip_if_exists=True)
        total = self.settings.n_trials
        if self._is_grid():
            size = enqueue_grid(study, space)
            if size > total:
                log.warning("The grid has %d combinations; n_trials=%d of them run.", size, total)
            total = min(total, size)
        written = time.monotonic()
        trials = study.get_trials(deepcopy=False)
        # running trials belong to other sweeps, which record them
        while (left := total - len(finished(trials)) - len(running(trials))) > 0:
            self._run_batch(study, space, min(left, self.settings.n_jobs))
            if time.monotonic() - written > WRITE_S:
                write_trials(trial_rows(study), objectives, self.directory)
                written = time.monotonic()
            trials = study.get_trials(deepcopy=False)
            self._check_failure_rate(finished(trials))

    def _write(self, result: StudyResult, space: Space) -> None:
        """Write and print the results."""
        loader = self.context.config_loader
        params = {trial.number: trial.params for trial in result.trials}
        added = config_dir_of(self.master.hydra.runtime.config_sources)
        flags = [] if added is None else ["--config-dir", added]
        commands = {
            number: launch_command(
                [*flags, *rerun_overrides(space, dict(params[number]), self.master, loader)]
            )
            for number in result.best
        }
        write_results(result, self.directory, commands)
        print_summary(result, self.directory)

    def _is_grid(self) -> bool:
        return getattr(self.sampler, "func", None) is Grid

    # -- trials -----------------------------------------------------------------------------------

    def _run_batch(self, study: StoredStudy, space: Space, size: int) -> None:
        """Run `size` new trials at once and record their results."""
        trials: list[Trial] = []
        overrides = []
        for _ in range(size):
            trials.append(ask(study))
            values = space.suggest(trials[-1])
            params = [f"{name}={value}" for name, value in values.items()]
            overrides.append((*space.fixed.values(), *params, *self._job(study, trials[-1])))
        try:
            with heartbeats(study, trials):
                returns = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
        except KeyboardInterrupt:
            for trial in trials:
                requeue(study, trial, "interrupted")
            done = len(finished(study.trials))
            raise KeyboardInterrupt(
                f"Sweep interrupted; {done} of {self.settings.n_trials} trials are stored. "
                "The same command completes it."
            ) from None
        except Exception as error:  # launchers raise many types of errors when they lose a worker
            log.error("The launcher failed: %s: %s", type(error).__name__, error)
            for trial in trials:
                self._record_report(study, trial, f"launcher: {type(error).__name__}: {error}")
            return
        errors = [self._record(study, *pair) for pair in zip(trials, returns, strict=True)]
        if config_errors := [error for error in errors if error is not None]:
            raise config_errors[0]

    def _job(self, study: StoredStudy, trial: Trial) -> tuple[str, str]:
        """Overrides for a trial's job: its directory, and the variable that names the trial."""
        reference = quoted_text(trial_reference(self.url, study.study_name, trial.number))
        variable = f"hydra.job.env_set.{TRIAL_VARIABLE}"
        return f"hydra.sweep.subdir='{trial.number}'", f"{variable}={reference}"

    def _record(self, study: StoredStudy, trial: Trial, done: JobReturn) -> ConfigError | None:
        """Store a trial's result; returns its ConfigError, since other trials would have it too."""
        value = done._return_value
        if done.status is JobStatus.COMPLETED and value is not None:
            self._record_report(study, trial, "its report has no finite objective")
        elif isinstance(value, TrialPruned):
            study.tell(trial, state=TrialState.PRUNED)
        elif isinstance(value, ConfigError):
            fail(study, trial, str(value))
            return ConfigError(f"trial {trial.number}: {value}")
        else:
            reason = "no objective" if value is None else f"{type(value).__name__}: {value}"
            log.warning("Trial %d failed: %s", trial.number, reason)
            fail(study, trial, reason)
        return None

    def _record_report(self, study: StoredStudy, trial: Trial, reason: str) -> None:
        """Store the objectives of a trial's report, or its failure if the report lacks them.

        A trial whose worker was lost may have written its report before.
        """
        values, metrics = self._results(trial)
        needed = [*values, *(metrics.get(constraint.metric) for constraint in self.constraints)]
        finite = [value for value in needed if value is not None and math.isfinite(value)]
        if len(finite) == len(needed):
            record_violations(trial, self.constraints, metrics)
            study.tell(trial, finite[: len(values)])
        else:
            log.warning("Trial %d failed: %s", trial.number, reason)
            fail(study, trial, reason)

    def _results(self, trial: Trial) -> tuple[list[float | None], Mapping[str, float]]:
        """The objectives and all metrics of a trial's report; an objective is None without one."""
        try:
            report = Report.load(self.directory / str(trial.number))
        except CheckpointError:
            return [None], {}
        if self.settings.objectives is None:
            return [report.objective], report.metrics
        return [report.metrics.get(name) for name in self.settings.objectives], report.metrics

    def _check_failure_rate(self, trials: Sequence[FrozenTrial]) -> None:
        failed = [t for t in trials if t.state is TrialState.FAIL]
        allowed = self.settings.max_failure_rate
        if len(failed) >= _MIN_FAILURES and len(failed) > allowed * len(trials):
            raise NeuroError(
                f"{len(failed)} of {len(trials)} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={allowed:g}. The last reason: "
                f"{failure_reason(failed[-1])}"
            )
