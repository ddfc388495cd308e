"""The stored study: opened or made, checked against what is asked for, free of leftovers."""

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
from neuro.search.space import changes
from neuro.search.storage import HEARTBEAT_S, open_storage

log = logging.getLogger("neuro")

#: user attributes of the study and of its trials
_SPACE, _CODE, _OBJECTIVES = "space", "code", "objectives"
_OWNER, _REASON, _KILLED = "owner", "reason", "killed"


@dataclass(frozen=True)
class Wanted:
    """What a study must be: its name, what it searches, in which directions, with which code."""

    name: str
    space: Mapping[str, str]
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    code: str
    accept_code: bool


def open_study(url: str, wanted: Wanted) -> optuna.Study:
    """The stored study, or a new one. ConfigError if it cannot be opened or is another one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():  # Optuna calls heartbeats experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = open_storage(url)
            try:
                study = optuna.load_study(study_name=wanted.name, storage=storage)
            except KeyError:  # there is none of this name
                study = optuna.create_study(
                    study_name=wanted.name, storage=storage, directions=list(wanted.directions)
                )
    except (SQLAlchemyError, OSError, RuntimeError, UnicodeError) as error:
        cause = getattr(error, "orig", None) or error
        reason = " ".join(without_password(str(cause)).split())
        raise ConfigError(
            f"hydra.sweeper.storage: cannot open {url} ({type(error).__name__}: {reason}). Is the "
            "server running, does the database exist, and is PGPASSWORD right? "
            "hydra.sweeper.storage=null keeps the study in the sweep's directory."
        ) from error
    # uncached: workers report through connections of their own, and samplers learn from it
    study._storage = study._storage._backend  # type: ignore[attr-defined]
    _check(study, wanted)
    return study


def _check(study: optuna.Study, wanted: Wanted) -> None:
    """ConfigError if the study searches something else; a new one takes down what it searches."""
    advice = "Use another hydra.sweep.dir or hydra.sweeper.study_name."
    stored = study.user_attrs.get(_SPACE)
    if stored is not None and stored != wanted.space:
        raise ConfigError(
            f"hydra.sweeper.params: the study '{study.study_name}' searches another space: "
            f"{changes(stored, wanted.space)}. {advice}"
        )
    found = tuple(direction.name.lower() for direction in study.directions)
    if found != wanted.directions:
        raise ConfigError(
            f"hydra.sweeper.direction: the study '{study.study_name}' has {', '.join(found)}, but "
            f"{', '.join(wanted.directions)} is asked for. {advice}"
        )
    names = study.user_attrs.get(_OBJECTIVES)
    if names is not None and tuple(names) != wanted.objectives:
        raise ConfigError(
            f"hydra.sweeper.objectives: the study '{study.study_name}' looks at "
            f"{', '.join(names)}, but {', '.join(wanted.objectives)} is asked for. {advice}"
        )
    if study.user_attrs.get(_CODE, wanted.code) != wanted.code and not wanted.accept_code:
        raise ConfigError(
            f"hydra.sweeper.accept_code: the study '{study.study_name}' began with other code. Run "
            f"<its sweep directory>/frozen/launch.py, or set it to true. {advice}"
        )
    study.set_user_attr(_OBJECTIVES, list(wanted.objectives))
    study.set_user_attr(_CODE, wanted.code)
    study.set_user_attr(_SPACE, dict(wanted.space))


# -- trials ---------------------------------------------------------------------------------------


def ask(study: optuna.Study) -> Trial:
    """A new trial, owned by this process."""
    trial = study.ask()
    process = psutil.Process()
    owner = {"host": platform.node(), "pid": process.pid, "started": process.create_time()}
    trial.set_user_attr(_OWNER, owner)
    return trial


def fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Record a trial as failed."""
    trial.set_user_attr(_REASON, without_password(reason)[:2000])
    study.tell(trial, state=TrialState.FAIL)


def ask_again(study: optuna.Study, trial: FrozenTrial | Trial, reason: str) -> None:
    """Mark a trial as killed, which does not count, and let its values wait for another one."""
    storage, number = study._storage, trial._trial_id
    storage.set_trial_user_attr(number, _REASON, reason)
    storage.set_trial_user_attr(number, _KILLED, True)
    storage.set_trial_state(number, TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params)


def release(study: optuna.Study) -> None:
    """Free the trials of sweeps that are gone."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if not _alive(study, trial):
            ask_again(study, trial, "its sweep was killed")
            log.info(
                "Trial %d was left by a killed sweep; its parameters are tried again.", trial.number
            )


def _alive(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial's sweep still runs: its process here, its signs of life elsewhere."""
    owner = trial.user_attrs.get(_OWNER)
    if owner is None:
        return False
    if owner["host"] != platform.node():
        storage: Any = study._storage  # as `open_storage` makes it, with signs of life
        return trial._trial_id not in storage._get_stale_trial_ids(study._study_id)
    try:
        return bool(psutil.Process(owner["pid"]).create_time() == owner["started"])
    except psutil.NoSuchProcess:
        return False


@contextmanager
def signs_of_life(study: optuna.Study, trials: Sequence[Trial]) -> Iterator[None]:
    """Within, the trials show sweeps on other machines that this one still runs."""
    stop = threading.Event()

    def beat() -> None:
        for trial in trials:
            study._storage.record_heartbeat(trial._trial_id)

    def keep_beating() -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                beat()
            except SQLAlchemyError as error:  # the trials' own results will tell
                log.warning("No sign of life could be stored: %s", type(error).__name__)

    beat()
    thread = threading.Thread(target=keep_beating, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards n_trials: finished ones that nobody killed."""
    finished = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=finished)
    return [trial for trial in trials if not trial.user_attrs.get(_KILLED)]


def running(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that other sweeps run at this moment."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def reason_of(trial: FrozenTrial) -> str | None:
    """Why a trial failed, if it did."""
    reason: Any = trial.user_attrs.get(_REASON)
    return reason
