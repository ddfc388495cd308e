"""Opens or creates the stored study, checks that it fits the sweep, and manages its trials."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import optuna
import psutil
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from neuro.errors import ConfigError
from neuro.runs.metadata import without_password
from neuro.search.constraints import Constraint
from neuro.search.settings import StudyDirection
from neuro.search.space import difference
from neuro.search.storage import HEARTBEAT_S, OBJECTIVES, STALE_S, open_storage

log = logging.getLogger("neuro")

#: further user attributes of the study
_SPACE, _CODE = "space", "code"
#: user attributes of a trial: the process that runs it, that process's last heartbeat in seconds
#: since 1970, why the trial failed, whether it was killed
_OWNER, _HEARTBEAT, _REASON, _KILLED = "owner", "heartbeat", "reason", "killed"


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
    directions: tuple[StudyDirection, ...]
    code: str
    accept_code: bool


class StoredStudy(optuna.Study):
    """A study and the storage that it is in, whose trials other processes may run."""

    def __init__(self, name: str, storage: BaseStorage):
        super().__init__(name, storage)
        self.storage = storage

    def set_trial_attr(self, number: int, name: str, value: object) -> None:
        """Set a user attribute of a trial that this process may not have created."""
        study = self.storage.get_study_id_from_name(self.study_name)
        trial = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        self.storage.set_trial_user_attr(trial, name, value)


def open_study(url: str, spec: StudySpec) -> StoredStudy:
    """Load the study of this name from a storage, or create it; plain Optuna may have created it.

    ConfigError if the storage cannot be opened or if a stored study differs from `spec`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = open_storage(url)
        with suppress(DuplicatedStudyError):
            optuna.create_study(
                study_name=spec.name, storage=storage, directions=list(spec.directions)
            )
        study = StoredStudy(spec.name, storage)
        _check(study, spec)
    except (SQLAlchemyError, StorageInternalError, OSError, RuntimeError, ValueError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        reason = " ".join(without_password(str(cause)).split())
        advice = (
            "Is the server running, does the database exist, and is PGPASSWORD right? "
            "hydra.sweeper.storage=null keeps the study in the sweep's directory."
            if url.startswith("postgresql")
            else "Move the file away if it is damaged or not a study of Optuna, or use another "
            "hydra.sweep.dir."
        )
        raise ConfigError(
            f"hydra.sweeper.storage: cannot open {url} ({type(cause).__name__}: {reason}). {advice}"
        ) from error
    return study


def _check(study: optuna.Study, spec: StudySpec) -> None:
    """ConfigError if a stored study differs from `spec`; stores the spec in a new study."""
    advice = "Use another hydra.sweep.dir or hydra.sweeper.study_name."
    stored = study.user_attrs.get(_SPACE)
    if stored is not None and (changes := difference(stored, spec.space)):
        raise ConfigError(
            f"hydra.sweeper.params: the study '{study.study_name}' has another search space: "
            f"{changes}. {advice}"
        )
    directions = tuple(direction.name.lower() for direction in study.directions)
    if directions != spec.directions:
        raise ConfigError(
            f"hydra.sweeper.direction: got {', '.join(spec.directions)}, but the study "
            f"'{study.study_name}' has {', '.join(directions)}. {advice}"
        )
    objectives = study.user_attrs.get(OBJECTIVES)
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
    study.set_user_attr(OBJECTIVES, list(spec.objectives))
    study.set_user_attr(_CODE, spec.code)
    study.set_user_attr(_SPACE, dict(spec.space))


# -- trials ---------------------------------------------------------------------------------------


def ask(study: StoredStudy) -> Trial:
    """Create a trial that is owned by this process."""
    trial = study.ask()
    process = psutil.Process()
    owner = {
        "host": platform.node(),
        "pid": process.pid,
        "started": process.create_time(),
        "asked": time.time(),  # counts as the first heartbeat
    }
    trial.set_user_attr(_OWNER, owner)
    return trial


def fail(study: StoredStudy, trial: Trial, reason: str) -> None:
    """Record a trial as failed."""
    trial.set_user_attr(_REASON, without_password(reason)[:2000])
    study.tell(trial, state=TrialState.FAIL)


def requeue(study: StoredStudy, trial: FrozenTrial | Trial, reason: str) -> None:
    """Record a trial as killed, and queue its values for another trial.

    Killed trials do not count towards n_trials.
    """
    study.set_trial_attr(trial.number, _REASON, reason)
    study.set_trial_attr(trial.number, _KILLED, True)
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params)


def requeue_stale(study: StoredStudy) -> None:
    """Requeue running trials whose sweep has ended without recording a result."""
    for trial in running(study.get_trials(deepcopy=False)):
        if not _alive(trial):
            requeue(study, trial, "its sweep was killed")
            log.info("The sweep of trial %d was killed; its values are queued again.", trial.number)


def _alive(trial: FrozenTrial) -> bool:
    """Whether a trial's sweep still runs: by its process on this host, by heartbeats on others.

    Trials that another program runs have no owner that could be looked for, and are left to it.
    """
    owner = trial.user_attrs.get(_OWNER)
    if owner is None:
        return True
    if owner["host"] != platform.node():
        # clocks of hosts that share a study differ by seconds, the limit is far above
        beat = trial.user_attrs.get(_HEARTBEAT, owner.get("asked", 0.0))
        return time.time() - float(beat) < STALE_S
    try:
        return bool(psutil.Process(owner["pid"]).create_time() == owner["started"])
    except psutil.NoSuchProcess:
        return False


@contextmanager
def heartbeats(study: StoredStudy, trials: Sequence[Trial]) -> Iterator[None]:
    """Record heartbeats of the trials in the background, for sweeps on other hosts.

    Optuna's own heartbeats need `Study.optimize`, which this package replaces, and a database.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                for trial in trials:
                    study.set_trial_attr(trial.number, _HEARTBEAT, time.time())
            except (SQLAlchemyError, StorageInternalError) as error:
                # if it lasts, storing the results fails too
                log.warning("A heartbeat could not be stored: %s", type(error).__name__)

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def finished(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count towards n_trials: complete, pruned and failed, but not killed ones."""
    return [t for t in trials if t.state.is_finished() and not t.user_attrs.get(_KILLED)]


def running(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that run now, in this sweep and in others."""
    return [trial for trial in trials if trial.state is TrialState.RUNNING]


def record_violations(
    trial: Trial, constraints: Iterable[Constraint], metrics: Mapping[str, float]
) -> None:
    """Record how far a trial's metrics are beyond each constraint."""
    for constraint in constraints:
        trial.set_constraint(str(constraint), constraint.violation(metrics))


def violated(trial: FrozenTrial) -> list[str]:
    """The constraints that a trial does not keep."""
    return [name for name, value in trial.constraints.items() if value > 0]


def failure_reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None if it did not."""
    reason: str | None = trial.user_attrs.get(_REASON)
    return reason
