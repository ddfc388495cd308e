"""The database of a study, and how the process of a trial finds its trial in it.

A password is removed from the URL at once and passed to PostgreSQL's client in the environment
variable PGPASSWORD, so that no file, log message or tracker can contain it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from neuro.errors import BackendUnavailable, ConfigError
from neuro.runs.metadata import without_password

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage
    from optuna.trial import Trial

#: environment variable of a trial's process, see `trial_reference`
TRIAL_VARIABLE = "NEURO_TRIAL"

#: timeouts in seconds for connecting to a server, and for a locked SQLite file
_CONNECT_S, _LOCK_S = 5, 120
#: seconds between two heartbeats of a sweep, which counts as killed after three missing ones
HEARTBEAT_S = 30

_KINDS = "sqlite:///path/to/file.db or postgresql://user@host:port/database"


def storage_url(given: str | None, directory: Path) -> str:
    """The storage's URL without password, with an absolute path for SQLite.

    - `given`: `hydra.sweeper.storage`; None: study.db in `directory`

    Sets PGPASSWORD if the URL has a password. ConfigError if the URL is invalid or its database
    neither SQLite nor PostgreSQL.
    """
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if given is None:
        return str(URL.create("sqlite", database=str(directory / "study.db")))
    try:
        url = make_url(given)
        kind = url.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"hydra.sweeper.storage: got '{without_password(given)}', which is not a URL. "
            f"Allowed: null (a file in the sweep's directory), {_KINDS}."
        ) from error
    if kind == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ConfigError("hydra.sweeper.storage: sqlite:/// needs the path of a file.")
        return str(URL.create("sqlite", database=str(Path(str(url.database)).resolve())))
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


def open_storage(url: str) -> RDBStorage:
    """Connect to the storage at a URL of `storage_url`.

    BackendUnavailable if PostgreSQL's driver is not installed, errors of SQLAlchemy if the database
    cannot be opened.
    """
    from optuna.storages import RDBStorage

    sqlite = url.startswith("sqlite")
    arguments = {"timeout": _LOCK_S} if sqlite else {"connect_timeout": _CONNECT_S}
    try:
        return RDBStorage(
            url,
            # pre-ping: a server may have closed a connection that was idle during a trial
            engine_kwargs={"connect_args": arguments, "pool_pre_ping": not sqlite},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=3 * HEARTBEAT_S,
        )
    except ImportError as error:
        raise BackendUnavailable(
            "hydra.sweeper.storage: PostgreSQL needs a driver that is not installed. Use "
            "pip install 'neuro[postgresql]', or hydra.sweeper.storage=null."
        ) from error


def trial_reference(url: str, study: str, number: int) -> str:
    """The value of `TRIAL_VARIABLE`: storage, study's name and trial's number as JSON."""
    return json.dumps({"storage": url, "study": study, "number": number})


def current_trial(pruner: BasePruner) -> Trial | None:
    """The trial that this process runs, with a pruner; None if it runs no trial."""
    if not os.environ.get(TRIAL_VARIABLE):
        return None
    import optuna

    reference = json.loads(os.environ[TRIAL_VARIABLE])
    study = optuna.load_study(
        study_name=reference["study"], storage=open_storage(reference["storage"]), pruner=pruner
    )
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(
        study._study_id, reference["number"]
    )
    return optuna.trial.Trial(study, trial_id)
