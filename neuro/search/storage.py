"""The storage of a study, and how the process of a trial finds its trial in it.

A storage is an SQLite file, a PostgreSQL database, or a journal: a file to which processes on
several hosts append under a lock, for shared disks on which SQLite is not safe.

A password is removed from the URL at once and passed to PostgreSQL's client in the environment
variable PGPASSWORD, so that no file, log message or tracker can contain it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from neuro.config.paths import expanded
from neuro.errors import BackendUnavailable, ConfigError
from neuro.runs.metadata import without_password

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import Trial

log = logging.getLogger("neuro")

#: environment variable of a trial's process, see `trial_reference`
TRIAL_VARIABLE = "NEURO_TRIAL"

#: user attribute of a study: names of the metrics that are its objectives
OBJECTIVES = "objectives"
#: user attribute of a pruned trial: mean objective of its finished repeats
MEAN_SO_FAR = "mean_so_far"

#: timeouts in seconds for connecting to a server, and for a locked SQLite file
_CONNECT_S, _LOCK_S = 5, 120
#: seconds between two heartbeats of a sweep, and without one after which it counts as killed
HEARTBEAT_S, STALE_S = 30, 90

_KINDS = (
    "journal (a file in the sweep's directory for several hosts), journal:///path/to/file.log, "
    "sqlite:///path/to/file.db or postgresql://user@host:port/database"
)


def storage_url(given: str | None, directory: Path) -> str:
    """The storage's URL without password, with an absolute path for a file.

    - `given`: `hydra.sweeper.storage`; None: study.db in `directory`; journal: study.log there

    Sets PGPASSWORD if the URL has a password. ConfigError if the URL is invalid or of another kind
    of storage.
    """
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if given is None:
        return str(URL.create("sqlite", database=str(directory / "study.db")))
    if given == "journal":
        return str(URL.create("journal", database=str(directory / "study.log")))
    try:
        url = make_url(given)
        kind = url.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"hydra.sweeper.storage: got '{without_password(given)}', which is not a URL. "
            f"Allowed: null (a file in the sweep's directory), {_KINDS}."
        ) from error
    if kind in ("sqlite", "journal"):
        if url.database in (None, "", ":memory:"):
            raise ConfigError(f"hydra.sweeper.storage: {kind}:/// needs the path of a file.")
        return str(URL.create(kind, database=str(Path(expanded(str(url.database))).resolve())))
    if kind != "postgresql":
        raise ConfigError(
            f"hydra.sweeper.storage: got a URL of {kind}; allowed: null (a file in the sweep's "
            f"directory), {_KINDS}."
        )
    query = dict(url.query)
    password = query.pop("password", url.password)
    if password is not None:
        os.environ["PGPASSWORD"] = str(password)
    bare = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)
    return str(bare)


def remove_passwords(config: DictConfig) -> None:
    """Remove the storage from what launchers pickle, trackers record and trials compose."""
    with open_dict(config):
        config.hydra.sweeper.storage = None
        given = config.hydra.overrides.hydra
        config.hydra.overrides.hydra = [
            text for text in given if not text.lstrip("+").startswith("hydra.sweeper.storage=")
        ]
    sys.argv[:] = [without_password(argument) for argument in sys.argv]


def open_storage(url: str) -> BaseStorage:
    """Connect to the storage at a URL of `storage_url`, and upgrade one that an older Optuna made.

    BackendUnavailable if PostgreSQL's driver is not installed, ConfigError if a newer Optuna made
    the storage, errors of SQLAlchemy and OSError if it cannot be opened, ValueError if a journal
    cannot be read.
    """
    kind = url.partition("://")[0]
    if kind == "journal":
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path = file_of(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            with path.open("rb") as file:
                if b'"op_code"' not in file.readline():
                    raise ValueError("not a journal of Optuna")
        return JournalStorage(JournalFileBackend(str(path)))
    from optuna.storages import RDBStorage

    # a name without driver stands for another driver in SQLAlchemy 2.0 than in 2.1
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    sqlite = kind == "sqlite"
    arguments: dict[str, object] = {"connect_timeout": _CONNECT_S}
    if sqlite:
        arguments = {"timeout": _LOCK_S, "factory": _Connection}
    # pre-ping: a server may have closed a connection that was idle during a trial
    engine = {"connect_args": arguments, "pool_pre_ping": not sqlite}
    try:
        try:
            storage = RDBStorage(url, engine_kwargs=engine)
        except RuntimeError:  # the schema of another version
            storage = RDBStorage(
                url, engine_kwargs=engine, skip_compatibility_check=True, skip_table_creation=True
            )
            _upgrade(storage, url)
    except ImportError as error:
        raise BackendUnavailable(
            "hydra.sweeper.storage: PostgreSQL needs a driver that is not installed. Use "
            "pip install 'neuro[postgresql]', or hydra.sweeper.storage=null."
        ) from error
    _write_ahead(storage)
    return storage


class _Connection(sqlite3.Connection):
    """A connection to a study's file that does not wait for the disk at each commit."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.execute("PRAGMA synchronous=NORMAL")


def _write_ahead(storage: RDBStorage) -> None:
    """Keep an SQLite file's changes in a log beside it, which is synced to the disk now and then.

    Proposing a trial takes about ten commits. A power cut may lose the last ones but leaves a valid
    file; a killed process loses nothing.
    """
    from sqlalchemy.exc import OperationalError

    if storage.engine.name == "sqlite":
        # suppressed: a file that may only be read
        with suppress(OperationalError), storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def close_storage(storage: BaseStorage) -> None:
    """Close connections; an SQLite file then needs no others beside it, unless other
    processes use it.
    """
    from optuna.storages import RDBStorage

    if not isinstance(storage, RDBStorage):
        return
    storage.remove_session()
    storage.engine.dispose()
    if storage.engine.name == "sqlite":
        # suppressed: another process uses the file, or it may only be read
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(file_of(storage.url))) as connection,
        ):
            connection.execute("PRAGMA journal_mode=DELETE")


def _upgrade(storage: RDBStorage, url: str) -> None:
    """Upgrade the tables; of an SQLite file a copy is kept. ConfigError if they are newer."""
    import optuna

    version = storage.get_current_version()
    if version not in storage.get_all_versions():
        raise ConfigError(
            f"hydra.sweeper.storage: {url} was made by a newer Optuna (tables {version}) than this "
            f"one, {optuna.__version__}. Upgrade it with pip install -U optuna, or use another "
            "hydra.sweep.dir."
        )
    if url.startswith("sqlite"):
        path = file_of(url)
        shutil.copy2(path, path.with_name(f"{path.name}.{version}"))
    storage.upgrade()
    log.info("Upgraded the tables of %s from those of Optuna %s.", url, version.strip("v.a"))


def file_of(url: str) -> Path:
    """The file of an SQLite or journal storage."""
    from sqlalchemy.engine import make_url

    return Path(str(make_url(url).database))


def trial_reference(url: str, study: str, number: int) -> str:
    """The value of `TRIAL_VARIABLE`: storage, study's name and trial's number as JSON."""
    return json.dumps({"storage": url, "study": study, "number": number})


def current_trial(pruner: BasePruner) -> Trial | None:
    """The trial that this process runs, with a pruner; None if it runs no trial."""
    if not os.environ.get(TRIAL_VARIABLE):
        return None
    import optuna

    reference = json.loads(os.environ[TRIAL_VARIABLE])
    storage = open_storage(reference["storage"])
    study = optuna.load_study(study_name=reference["study"], storage=storage, pruner=pruner)
    trial_id = storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(reference["study"]), reference["number"]
    )
    return optuna.trial.Trial(study, trial_id)
