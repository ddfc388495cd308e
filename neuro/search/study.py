"""Opens or creates the stored study, checks that it fits the sweep, and manages its trials."""

from __future__ import annotations

import logging
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from neuro.errors import ConfigError
from neuro.runs.metadata import without_password
from neuro.search.space import difference
from neuro.search.storage import HEARTBEAT_S, open_storage

log = logging.getLogger("neuro")

#: user attributes of the study
_SPACE, _CODE, _OBJECTIVES = "space", "code", "objectives"
#: user attributes of a trial: the process that runs it, why it failed, whether it was killed
_OWNER, _REASON, _KILLED = "owner", "reason", "killed"


@dataclass(frozen=True)
class StudySpec:
    """The properties of the study that a sweep needs.

    - `space`: see `Space.as_text`
    - `directions`: maximize or minimize, for each objective
    - `code`: digest of the code
    - `accept_code`: continue a study that was started with other code
    """

    name: str
    space: Mapping[str, str]
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    code: str
    accept_code: bool


def open_study(url: str, spec: StudySpec) -> optuna.Study:
    """Load the study of this name from a storage, or create it.

    ConfigError if the storage cannot be opened or if a stored study differs from `spec`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():  # Optuna warns that heartbeats are experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = open_storage(url)
            try:
                study = optuna.load_study(study_name=spec.name, storage=storage)
            except KeyError:  # no study of this name
                study = optuna.create_study(
                    study_name=spec.name, storage=storage, directions=list(spec.directions)
                )
    except (SQLAlchemyError, OSError, RuntimeError, UnicodeError) as error:
        cause = getattr(error, "orig", None) or error
        reason = " ".join(without_password(str(cause)).split())
        raise ConfigError(
            f"hydra.sweeper.storage: cannot open {url} ({type(error).__name__}: {reason}). Is the "
            "server running, does the database exist, and is PGPASSWORD right? "
            "hydra.sweeper.storage=null keeps the study in the sweep's directory."
        ) from error
    # without Optuna's cache, since workers store values through connections of their own
    study._storage = study._storage._backend  # type: ignore[attr-defined]
    _check(study, spec)
    return study


def _check(study: optuna.Study, spec: StudySpec) -> None:
    """ConfigError if a stored study differs from `spec`; stores the spec in a new study."""
    advice = "Use another hydra.sweep.dir or hydra.sweeper.study_name."
    stored = study.user_attrs.get(_SPACE)
    if stored is not None and stored != spec.space:
        raise ConfigError(
            f"hydra.sweeper.params: the study '{study.study_name}' has another search space: "
            f"{difference(stored, spec.space)}. {advice}"
        )
    directions = tuple(direction.name.lower() for direction in study.directions)
    if directions != spec.directions:
        raise ConfigError(
            f"hydra.sweeper.direction: got {', '.join(spec.directions)}, but the study "
            f"'{study.study_name}' has {', '.join(directions)}. {advice}"
        )
    objectives = study.user_attrs.get(_OBJECTIVES)
    if objectives is not None and tuple(objectives) != spec.objectives:
        raise ConfigError(
            f"hydra.sweeper.objectives: got {', '.join(spec.objectives)}, but the study "
            f"'{study.study_name}' has {', '.join(objectives)}. {advice}"
        )
    if study.user_attrs.get(_CODE, spec.code) != spec.code and not spec.accept_code:
        raise ConfigError(
            f"hydra.sweeper.accept_code: the study '{study.study_name}' was started with other "
            f"code. Run <its sweep directory>/frozen/launch.py, or set it to true. {advice}"
        )
    study.set_user_attr(_OBJECTIVES, list(spec.objectives))
    study.set_user_attr(_CODE, spec.code)
    study.set_user_attr(_SPACE, dict(spec.space))


# -- trials ---------------------------------------------------------------------------------------


def ask(study: optuna.Study) -> Trial:
    """Create a trial that is owned by this process."""
    trial = study.ask()
    process = psutil.Process()
    owner = {"host": platform.node(), "pid": process.pid, "started": process.create_time()}
    trial.set_user_attr(_OWNER, owner)
    return trial


def fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Record a trial as failed."""
    trial.set_user_attr(_REASON, without_password(reason)[:2000])
    study.tell(trial, state=TrialState.FAIL)


def requeue(study: optuna.Study, trial: FrozenTrial | Trial, reason: str) -> None:
    """Record a trial as killed, and queue its values for another trial.

    Killed trials do not count towards n_trials.
    """
    storage, trial_id = study._storage, trial._trial_id
    storage.set_trial_user_attr(trial_id, _REASON, reason)
    storage.set_trial_user_attr(trial_id, _KILLED, True)
    storage.set_trial_state(trial_id, TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params)


def requeue_stale(study: optuna.Study) -> None:
    """Requeue running trials whose sweep has ended without recording a result."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if not _alive(study, trial):
            requeue(study, trial, "its sweep was killed")
            log.info("The sweep of trial %d was killed; its values are queued again.", trial.number)


def _alive(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial's sweep still runs: by its process on this host, by heartbeats on others."""
    owner = trial.user_attrs.get(_OWNER)
    if owner is None:
        return False
    if owner["host"] != platform.node():
        storage: Any = study._storage  # an RDBStorage with heartbeats, see `open_storage`
        return trial._trial_id not in storage._get_stale_trial_ids(study._study_id)
    try:
        return bool(psutil.Process(owner["pid"]).create_time() == owner["started"])
    except psutil.NoSuchProcess:
        return False


@contextmanager
def heartbeats(study: optuna.Study, trials: Sequence[Trial]) -> Iterator[None]:
    """Record heartbeats of the trials in the background, for sweeps on other hosts.

    Optuna's own heartbeats need `Study.optimize`, which this package replaces.
    """
    stop = threading.Event()

    def beat() -> None:
        for trial in trials:
            study._storage.record_heartbeat(trial._trial_id)

    def keep_beating() -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                beat()
            except SQLAlchemyError as error:  # if it lasts, storing the results fails too
                log.warning("A heartbeat could not be stored: %s", type(error).__name__)

    beat()
    thread = threading.Thread(target=keep_beating, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards n_trials: complete, pruned and failed, but not killed ones."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if not trial.user_attrs.get(_KILLED)]


def running(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that run now, in this sweep and in others."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def failure_reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None if it did not."""
    reason: str | None = trial.user_attrs.get(_REASON)
    return reason
