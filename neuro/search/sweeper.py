"""The loop of a search: propose, launch, record, until n_trials are stored.

The parsing of ranges and the launching of jobs are hydra-optuna-sweeper's and Hydra's launchers'.
The loop is ours, since that of hydra-optuna-sweeper runs n_trials again on every call, reuses job
directories and knows no pruning:

- The study is stored, by default in the sweep's directory; the same command completes it to
  n_trials. Trials of a sweep that was killed are marked as failed and their parameters asked again.
- Config and code are frozen (`frozen.py`).
- Trials from all over the space are composed and checked before the first one runs
  (`rehearsal.py`), so an error that all would meet ends the sweep at once. After that a crashed or
  diverged trial is recorded with its reason and the sweep goes on, up to `max_failure_rate`. A
  launcher that loses a worker costs its batch.
- However the sweep ends, its results are written.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from neuro.errors import BackendUnavailable, CheckpointError, ConfigError, NeuroError, TrialPruned
from neuro.runs.metadata import without_password
from neuro.runs.report import Report
from neuro.search.frozen import (
    FrozenTask,
    freeze_code,
    freezing,
    frozen_loader,
    running_frozen,
)
from neuro.search.outcome import result_of, tell
from neuro.search.rehearsal import rehearse
from neuro.search.rerun import rerun_overrides
from neuro.search.results import SearchResult, command, write_results
from neuro.search.samplers import Grid, enqueue_grid, make_sampler
from neuro.search.settings import SearchSettings, check_settings
from neuro.search.space import Space, parse_space
from neuro.search.storage import TRIAL_VARIABLE, storage_url, trial_entry
from neuro.search.study import (
    Wanted,
    ask,
    ask_again,
    counted,
    fail,
    open_study,
    reason_of,
    release,
    running,
    signs_of_life,
)

log = logging.getLogger("neuro")

#: failed trials from which on the rate counts
_ENOUGH = 4


class Search:
    """A search; the keys are explained in conf/hydra/sweeper/neuro.yaml."""

    def __init__(self, sampler: Any, **settings: Any) -> None:
        self.sampler = sampler
        self.settings: SearchSettings = check_settings(settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.directory = Path(config.hydra.sweep.dir).resolve()
        self.url = storage_url(self.settings.storage, self.directory)
        _forget_passwords(config)
        with open_dict(config):
            config.hydra.sweep.dir = str(self.directory)
        self.master = config
        self.context = hydra_context
        self.task = task_function

    def sweep(self, arguments: list[str]) -> None:
        space = parse_space(self.settings.params, self.settings.conditional, arguments)
        if self._is_grid():
            space.grid()  # or tell why it is none
        self._check_launcher()
        with freezing(self.directory):
            study, objectives = self._begin(space)
        try:
            with running_frozen(self.directory), _stopping():
                try:
                    self._complete(study, space)
                finally:
                    self._conclude(result_of(study, objectives), space)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise NeuroError(
                f"hydra.sweeper.storage: lost {self.url} ({without_password(str(error))}). The "
                "same command goes on with what it holds."
            ) from error

    def _begin(self, space: Space) -> tuple[optuna.Study, tuple[str, ...]]:
        """Freeze and check everything; the study, and its objectives."""
        search_path = self.context.config_loader.get_search_path()
        loader = frozen_loader(search_path, self.directory)
        self.context = HydraContext(loader, self.context.callbacks)
        code = freeze_code(self.directory, accept=self.settings.accept_code)
        self.launcher = self._make_launcher(FrozenTask(self.task, code))
        with running_frozen(self.directory):
            tried = rehearse(space, self.settings, self.master, self.context)
        wanted = Wanted(
            self.settings.study_name or self.directory.name, space.stored(), tried.objectives,
            tried.directions, code, self.settings.accept_code,
        )  # fmt: skip
        study = open_study(self.url, wanted)
        release(study)
        return study, tried.objectives

    def _complete(self, study: optuna.Study, space: Space) -> None:
        """Run trials until as many as asked for are stored."""
        study.sampler = make_sampler(self.sampler, len(study.trials))
        wanted = self.settings.n_trials
        if self._is_grid():
            size = enqueue_grid(study, space)
            if size > wanted:
                log.warning("The grid has %d combinations; n_trials=%d of them run.", size, wanted)
            wanted = min(wanted, size)
        while (left := wanted - len(counted(study)) - len(running(study))) > 0:
            self._batch(study, space, min(left, self.settings.n_jobs))
            self._stop_if_most_fail(study)

    def _conclude(self, result: SearchResult, space: Space) -> None:
        """Write what is known so far, and tell it."""
        loader = self.context.config_loader
        params = {trial.number: trial.params for trial in result.trials}
        commands = {
            number: command(rerun_overrides(space, dict(params[number]), self.master, loader))
            for number in result.best
        }
        write_results(result, self.directory, commands)
        tell(result, self.directory)

    def _is_grid(self) -> bool:
        return getattr(self.sampler, "func", None) is Grid

    # -- before the first trial -------------------------------------------------------------------

    def _check_launcher(self) -> None:
        launcher = self.master.hydra.launcher._target_
        if self.settings.n_jobs > 1 and launcher.endswith("BasicLauncher"):
            raise ConfigError(
                f"hydra.sweeper.n_jobs: got {self.settings.n_jobs}, but this launcher runs one job "
                "after the other. Choose hydra/launcher=joblib, ray or submitit_slurm."
            )

    def _make_launcher(self, task: TaskFunction) -> Launcher:
        try:
            return Plugins.instance().instantiate_launcher(
                config=self.master, hydra_context=self.context, task_function=task
            )
        except HydraException as error:
            choice = self.master.hydra.runtime.choices["hydra/launcher"]
            raise BackendUnavailable(
                f"hydra/launcher={choice}: cannot be made ({str(error).splitlines()[0]}). If its "
                "package is missing: pip install 'neuro[ray]'."
            ) from error

    # -- trials -----------------------------------------------------------------------------------

    def _batch(self, study: optuna.Study, space: Space, size: int) -> None:
        trials: list[Trial] = []
        overrides = []
        for _ in range(size):
            trials.append(ask(study))
            values = space.suggest(trials[-1])
            chosen = [f"{name}={value}" for name, value in values.items()]
            overrides.append((*space.fixed.values(), *chosen, *self._place(study, trials[-1])))
        try:
            with signs_of_life(study, trials):
                returns = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
        except KeyboardInterrupt:
            for trial in trials:
                ask_again(study, trial, "interrupted")
            stored = len(counted(study))
            raise KeyboardInterrupt(
                f"Search interrupted; {stored} of {self.settings.n_trials} trials are stored. The "
                "same command completes it."
            ) from None
        except Exception as error:  # whatever a launcher raises that lost its workers
            log.error("The launcher failed: %s: %s", type(error).__name__, error)
            for trial in trials:
                self._recover(study, trial, f"launcher: {type(error).__name__}: {error}")
            return
        pairs = zip(trials, returns, strict=True)
        if refused := [e for e in (self._record(study, *pair) for pair in pairs) if e is not None]:
            raise refused[0]

    def _place(self, study: optuna.Study, trial: Trial) -> tuple[str, str]:
        """Overrides: a trial's directory, and how it finds its entry in the study."""
        entry = _quoted(trial_entry(self.url, study.study_name, trial.number))
        variable = f"hydra.job.env_set.{TRIAL_VARIABLE}"
        return f"hydra.sweep.subdir='{trial.number}'", f"{variable}={entry}"

    def _record(self, study: optuna.Study, trial: Trial, done: JobReturn) -> ConfigError | None:
        """Store how a trial ended; returns the error that would end every other one too."""
        value = done._return_value
        if done.status is JobStatus.COMPLETED and value is not None:
            self._recover(study, trial, "it left no finite objective")
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

    def _recover(self, study: optuna.Study, trial: Trial, reason: str) -> None:
        """Store what a trial's report says, also if its worker was lost later; else the reason."""
        values = self._values(trial)
        if values is None:
            log.warning("Trial %d failed: %s", trial.number, reason)
            fail(study, trial, reason)
        else:
            study.tell(trial, values)

    def _values(self, trial: Trial) -> list[float] | None:
        """The objectives in a trial's report; None if it has none that are finite."""
        try:
            report = Report.load(self.directory / str(trial.number))
        except CheckpointError:
            return None
        values = [report.objective]
        if self.settings.objectives is not None:
            values = [report.metrics.get(name) for name in self.settings.objectives]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return finite if len(finite) == len(values) else None

    def _stop_if_most_fail(self, study: optuna.Study) -> None:
        trials = counted(study)
        failed = [t for t in trials if t.state is TrialState.FAIL]
        allowed = self.settings.max_failure_rate
        if len(failed) >= _ENOUGH and len(failed) > allowed * len(trials):
            raise NeuroError(
                f"{len(failed)} of {len(trials)} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={allowed:g}. The last one: "
                f"{reason_of(failed[-1])}"
            )


def _forget_passwords(config: DictConfig) -> None:
    """Take the storage out of what launchers pickle, trackers record and trials compose."""
    with open_dict(config):
        config.hydra.sweeper.storage = None
        given = config.hydra.overrides.hydra
        config.hydra.overrides.hydra = [
            text for text in given if not text.lstrip("+").startswith("hydra.sweeper.storage=")
        ]
    sys.argv[:] = [without_password(argument) for argument in sys.argv]


def _quoted(text: str) -> str:
    """A string as Hydra's grammar takes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM ends the search as Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("Search stopped; the same command completes it.")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
