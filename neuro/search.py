"""Optuna searches that survive: what hydra-optuna-sweeper parses, run as a study on disk.

The parsing of search spaces and the launching of jobs are hydra-optuna-sweeper's. `sweep` replaces
its loop, which runs n_trials again on every call, reuses job directories and knows no pruning:

- The study is stored, by default in the sweep's directory; the same command completes it to
  n_trials. Trials of a sweep that was killed are marked as failed and their parameters asked again.
- The config is frozen: the first call copies the config files into the directory, and every later
  trial is composed from the copy.
- One trial is composed and checked before the first runs, so an error that all would meet ends the
  sweep at once. After that a crashed or diverged trial is recorded with its reason and the sweep
  goes on, up to `max_failure_rate`. A launcher that loses a worker costs its batch.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode, TaskFunction
from hydra_plugins.hydra_optuna_sweeper._impl import (
    OptunaSweeperImpl,
    create_params_from_overrides,
)
from omegaconf import DictConfig, open_dict
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState

from neuro.analysis.runs import RunRecord
from neuro.analysis.search import SearchResult, TrialRow, write_results
from neuro.assembly import assemble, check_config
from neuro.continuation import plain
from neuro.errors import ConfigError, NeuroError, TrialPruned, nearest
from neuro.metadata import without_password
from neuro.schema import reported, validations
from neuro.training.callbacks.pruning import STUDY_VARIABLE, TRIAL_VARIABLE

log = logging.getLogger("neuro")

#: failed trials from which on the rate counts
_ENOUGH = 4
#: user attributes of the study and of its trials
_SPACE, _OWNER, _REASON, _KILLED = "space", "owner", "reason", "killed"

Space = dict[str, BaseDistribution]


class Search(OptunaSweeperImpl):
    """A search; the keys are explained in conf/hydra/sweeper/neuro.yaml."""

    def __init__(
        self,
        sampler: Any,
        direction: Any,
        storage: str | None,
        study_name: str | None,
        n_trials: int,
        n_jobs: int,
        max_failure_rate: float,
        params: DictConfig | None,
        custom_search_space: str | None,
        objectives: Sequence[str] | None,
    ):
        super().__init__(
            sampler, direction, storage, study_name, n_trials, n_jobs, 0.0,
            None, custom_search_space, params,
        )  # fmt: skip
        self.max_failure_rate = max_failure_rate
        self.objectives = None if objectives is None else tuple(objectives)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        directory = Path(config.hydra.sweep.dir).resolve()
        with open_dict(config):
            config.hydra.sweep.dir = str(directory)
            config.hydra.sweep.subdir = "${hydra.job.num}"
        self.directory = directory
        self.master: DictConfig = config
        self.context = HydraContext(
            config_loader=_frozen(hydra_context.config_loader.get_search_path(), directory),
            callbacks=hydra_context.callbacks,
        )
        super().setup(hydra_context=self.context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        self._check_settings()
        self._process_searchspace_config()
        space, fixed = create_params_from_overrides(
            [*self._parse_sweeper_params_config(), *arguments]
        )
        space = {name: found for name, found in space.items() if name not in fixed}
        if not space and self.custom_search_space_extender is None:
            raise ConfigError(
                "hydra.sweeper.params: nothing to search. Give it ranges, e.g. "
                "'optimizer.lr=tag(log, interval(0.001, 0.1))', or choose a sweep: sweep=ltgate."
            )
        self._check_trial(space, fixed)
        study = self._study(space)
        _release(study)
        while (left := self.n_trials - len(_counted(study))) > 0:
            self._batch(study, space, fixed, min(left, self.n_jobs))
            self._stop_if_most_fail(study)
        result = self._result(study)
        given = [f"{k}={v}" for k, v in fixed.items() if k not in ("sweep", *self.choices)]
        chosen = [f"{group}={option}" for group, option in self.choices.items()]
        write_results(result, self.directory, [*chosen, *given])
        _tell(result, self.directory)

    def _check_settings(self) -> None:
        problems = [
            f"hydra.sweeper.{name}: got {value}; at least {least}."
            for name, value, least in (("n_trials", self.n_trials, 1), ("n_jobs", self.n_jobs, 1))
            if value < least
        ]
        if not 0 <= self.max_failure_rate <= 1:
            problems.append(f"hydra.sweeper.max_failure_rate: got {self.max_failure_rate}; 0 to 1.")
        directions = len(self._get_directions())
        if directions != (wanted := len(self.objectives or "1")):
            problems.append(
                f"hydra.sweeper.direction: got {directions} for {wanted} objectives; give one each."
            )
        if problems:
            raise ConfigError(problems)

    # -- before the first trial -------------------------------------------------------------------

    def _check_trial(self, space: Space, fixed: Mapping[str, Any]) -> None:
        """Compose and check one trial, at the first value of every parameter."""
        first = {name: _first(distribution) for name, distribution in space.items()}
        try:
            cfg = self.context.config_loader.load_sweep_config(
                self.master, [f"{k}={v}" for k, v in {**fixed, **first}.items()]
            )
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.params: a trial cannot be composed. {error}"
            ) from error
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = 0
        HydraConfig.instance().set_config(cfg)
        self.choices = self._choices(cfg)
        with open_dict(cfg):
            cfg.pop("hydra")
        config = plain(cfg)
        check_config(config)
        parts = assemble(config)
        HydraConfig.instance().set_config(self.master)
        kinds = validations(parts.callbacks.values())
        names = reported(parts.settings, parts.plan, parts.target, kinds)
        if unknown := [name for name in self.objectives or () if name not in names]:
            raise ConfigError(
                f"hydra.sweeper.objectives: a trial reports no '{unknown[0]}'. Allowed: "
                f"{', '.join(names)}.{nearest(unknown[0], names)}"
            )
        self.names = self.objectives or (parts.settings.objective,)

    def _choices(self, cfg: DictConfig) -> dict[str, str]:
        """What the sweep chose in the config groups, as far as it is not the default."""
        loader = self.context.config_loader
        name = self.master.hydra.job.config_name
        default = loader.load_configuration(name, overrides=[], run_mode=RunMode.RUN)
        usual = default.hydra.runtime.choices
        return {
            group: option
            for group, option in cfg.hydra.runtime.choices.items()
            if "/" not in group and group in usual and option not in (None, usual[group])
            if group != "sweep"
        }

    def _study(self, space: Space) -> optuna.Study:
        """The stored study, or a new one; its space must be the one that is searched."""
        self.directory.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # which SQL tables it made
        storage = self.storage or f"sqlite:///{self.directory / 'study.db'}"
        name = self.study_name or self.directory.name
        try:
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=self._get_directions(),
                load_if_exists=True,
            )
        except Exception as error:  # whatever a database driver raises
            raise ConfigError(
                f"hydra.sweeper.storage: cannot open {without_password(str(storage))} "
                f"({type(error).__name__}: {without_password(str(error)).splitlines()[0]})."
            ) from error
        stored = study.user_attrs.get(_SPACE)
        wanted = {name: distribution_to_json(found) for name, found in space.items()}
        if stored is None:
            study.set_user_attr(_SPACE, wanted)
        elif stored != wanted:
            raise ConfigError(
                f"hydra.sweeper.params: the study '{name}' in {self.directory} searches another "
                f"space: {_changes(stored, wanted)}. Use another hydra.sweep.dir or study_name."
            )
        if [d.name.lower() for d in study.directions] != self._get_directions():
            raise ConfigError(f"hydra.sweeper.direction: the study '{name}' has another one.")
        study.sampler = self._sampler(len(study.trials))
        os.environ[STUDY_VARIABLE] = json.dumps({"storage": str(storage), "name": name})
        return study

    def _sampler(self, stored: int) -> Any:
        """The sampler; its seed, if it has one, moved on by the number of stored trials."""
        settings = getattr(self.sampler, "keywords", {})
        if settings.get("seed") is None:
            return self.sampler() if callable(self.sampler) else self.sampler
        return self.sampler(seed=settings["seed"] + stored)

    # -- trials -----------------------------------------------------------------------------------

    def _batch(
        self, study: optuna.Study, space: Space, fixed: Mapping[str, Any], size: int
    ) -> None:
        trials = [study.ask() for _ in range(size)]
        for trial in trials:
            trial.set_user_attr(_OWNER, _owner())
        overrides = [
            (*chosen, f"+hydra.job.env_set.{TRIAL_VARIABLE}='{trial.number}'")
            for trial, chosen in zip(
                trials, self._configure_trials(trials, space, dict(fixed)), strict=True
            )
        ]
        try:
            returns = self._launch(trials, overrides)
        except KeyboardInterrupt:
            for trial in trials:
                _fail(study, trial, "interrupted", killed=True)
            raise
        except Exception as error:  # the launcher lost its workers: this batch, not the sweep
            log.error("The launcher failed: %s: %s", type(error).__name__, error)
            for trial in trials:
                _fail(study, trial, f"launcher: {type(error).__name__}: {error}")
            return
        for trial, done in zip(trials, returns, strict=True):
            self._record(study, trial, done)

    def _launch(
        self, trials: Sequence[Trial], overrides: Sequence[Sequence[str]]
    ) -> Sequence[JobReturn]:
        """Jobs numbered like their trials, which Hydra counts up from the first of a batch."""
        assert self.launcher is not None
        numbers = [trial.number for trial in trials]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return self.launcher.launch(overrides, initial_job_idx=numbers[0])
        return [
            done
            for number, chosen in zip(numbers, overrides, strict=True)
            for done in self.launcher.launch([chosen], initial_job_idx=number)
        ]

    def _record(self, study: optuna.Study, trial: Trial, done: JobReturn) -> None:
        value = done._return_value
        if done.status is JobStatus.COMPLETED and value is not None:
            if self.objectives is not None:
                report = RunRecord(self.directory / str(trial.number)).report
                assert report is not None, "a completed run has a report"
                study.tell(trial, [report["metrics"][name] for name in self.objectives])
            else:
                study.tell(trial, float(value))
        elif isinstance(value, TrialPruned):
            study.tell(trial, state=TrialState.PRUNED)
        elif isinstance(value, ConfigError):
            _fail(study, trial, str(value))
            raise ConfigError(f"trial {trial.number}: {value}")
        else:
            reason = "no objective" if value is None else f"{type(value).__name__}: {value}"
            log.warning("Trial %d failed: %s", trial.number, reason)
            _fail(study, trial, reason)

    def _stop_if_most_fail(self, study: optuna.Study) -> None:
        counted = _counted(study)
        failed = [t for t in counted if t.state is TrialState.FAIL]
        if len(failed) >= _ENOUGH and len(failed) > self.max_failure_rate * len(counted):
            raise NeuroError(
                f"{len(failed)} of {len(counted)} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={self.max_failure_rate:g}. The last one: "
                f"{failed[-1].user_attrs.get(_REASON)}"
            )

    def _result(self, study: optuna.Study) -> SearchResult:
        """The study as plain values."""
        directions = tuple(d.name.lower() for d in study.directions)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        single = len(directions) == 1
        best = [] if not complete else [study.best_trial] if single else study.best_trials
        varied = len({tuple(trial.params.items()) for trial in complete}) > 1
        importance: Mapping[str, float] = {}
        if single and varied and len({trial.value for trial in complete}) > 1:
            # optuna 2's default, fANOVA, fails with the trees of scikit-learn from 1.3 on
            evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
            importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return SearchResult(
            study.study_name,
            self.names,
            directions,
            [_row(trial) for trial in study.get_trials(deepcopy=False)],
            [trial.number for trial in best],
            importance,
        )


def _row(trial: FrozenTrial) -> TrialRow:
    values = tuple(trial.values or ())
    if trial.state is TrialState.PRUNED and trial.last_step is not None:
        values = (trial.intermediate_values[trial.last_step],)
    seconds = None if trial.duration is None else trial.duration.total_seconds()
    reason = trial.user_attrs.get(_REASON)
    return TrialRow(trial.number, trial.state.name.lower(), values, trial.params, seconds, reason)


def _frozen(search_path: ConfigSearchPath, directory: Path) -> ConfigLoaderImpl:
    """A loader of the config files as they were when the sweep began."""
    path = copy.deepcopy(search_path)
    for i, element in enumerate(path.get_path()):
        scheme, _, path_of_files = (element.path or "").rpartition("://")
        if scheme not in ("", "file") or not path_of_files:
            continue
        source = Path(path_of_files)
        kept = directory / "frozen_conf" / f"{i}-{element.provider}"
        if not kept.exists() and source.is_dir():
            partial = kept.with_name(f"{kept.name}.tmp")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
            partial.rename(kept)
        element.path = f"file://{kept}"
    return ConfigLoaderImpl(config_search_path=path)


def _release(study: optuna.Study) -> None:
    """Mark trials whose sweep was killed as failed, and ask for their parameters again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(_OWNER)
        if owner is not None and _alive(owner):
            continue
        study._storage.set_trial_user_attr(trial._trial_id, _KILLED, True)
        study._storage.set_trial_user_attr(trial._trial_id, _REASON, "its sweep was killed")
        study._storage.set_trial_state(trial._trial_id, TrialState.FAIL)
        study.enqueue_trial(trial.params)
        log.info(
            "Trial %d was left by a killed sweep; its parameters are tried again.", trial.number
        )


def _owner() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": platform.node(), "pid": process.pid, "started": process.create_time()}


def _alive(owner: Mapping[str, Any]) -> bool:
    """Whether the sweep of a trial still runs; one on another host counts as running."""
    if owner["host"] != platform.node():
        return True
    try:
        return psutil.Process(owner["pid"]).create_time() == owner["started"]
    except psutil.NoSuchProcess:
        return False


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards n_trials: finished ones that nobody killed."""
    finished = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=finished)
    return [trial for trial in trials if not trial.user_attrs.get(_KILLED)]


def _fail(study: optuna.Study, trial: Trial, reason: str, *, killed: bool = False) -> None:
    trial.set_user_attr(_REASON, reason[:2000])
    if killed:
        trial.set_user_attr(_KILLED, True)
        study.enqueue_trial(trial.params)
    study.tell(trial, state=TrialState.FAIL)


def _first(distribution: BaseDistribution) -> Any:
    """The lower end, or the first choice."""
    choices = getattr(distribution, "choices", None)
    return choices[0] if choices is not None else distribution.low  # type: ignore[attr-defined]


def _changes(stored: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """What two spaces differ in, by key."""
    parts = [f"{k} is new{nearest(k, stored)}" for k in wanted if k not in stored]
    parts += [f"{k} is missing" for k in stored if k not in wanted]
    parts += [f"{k} has another range" for k in wanted if k in stored and stored[k] != wanted[k]]
    return ", ".join(parts)


def _tell(result: SearchResult, directory: Path) -> None:
    """How the search ended, and how to run its best trial."""
    states = [trial.state for trial in result.trials if trial.state != "waiting"]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"\nstudy {result.name}: {len(states)} trials ({counts})")
    by_number = {trial.number: trial for trial in result.trials}
    for number in result.best:
        values = zip(result.objectives, by_number[number].values, strict=True)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values)
        params = " ".join(f"{name}={value}" for name, value in by_number[number].params.items())
        print(f"best trial {number}: {shown}  ({params})")
    print(f"sweep: {directory} (trials.csv, best.yaml with the command, plots/)")
