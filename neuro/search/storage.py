"""Where the study of a search is stored, and how a trial finds its own entry in it.

A password is taken out of the URL at once and handed to PostgreSQL's client the way it has for it,
the environment variable PGPASSWORD. So nothing that is written anywhere can hold it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuro.errors import BackendUnavailable, ConfigError
from neuro.runs.metadata import without_password

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import Trial

#: environment variable of a trial: its study's storage and name and its own number, as JSON
TRIAL_VARIABLE = "NEURO_TRIAL"

#: seconds after which a server counts as unreachable, and after which a locked SQLite file fails
_CONNECT_S, _LOCK_S = 5, 120
#: seconds between two signs of life of a sweep; three of them missed: it is gone
HEARTBEAT_S = 30

_KINDS = "sqlite:///path/to/file.db or postgresql://user@host:port/database"


def storage_url(given: str | None, directory: Path) -> str:
    """The storage's URL without a password, a SQLite file's path absolute.

    `given` is None for study.db in the sweep's directory. ConfigError if it is neither SQLite nor
    PostgreSQL.
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
            f"hydra.sweeper.storage: got '{without_password(given)}', which is no URL. Allowed: "
            f"null (a file in the sweep's directory), {_KINDS}."
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
    """The storage at a URL of `storage_url`; waits seconds for a server, longer for a lock.

    BackendUnavailable if PostgreSQL's driver is not installed.
    """
    from optuna.storages import RDBStorage

    sqlite = url.startswith("sqlite")
    arguments = {"timeout": _LOCK_S} if sqlite else {"connect_timeout": _CONNECT_S}
    try:
        return RDBStorage(
            url,
            # a server may have closed a connection that waited for a trial to end
            engine_kwargs={"connect_args": arguments, "pool_pre_ping": not sqlite},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=3 * HEARTBEAT_S,
        )
    except ImportError as error:
        raise BackendUnavailable(
            "hydra.sweeper.storage: PostgreSQL needs a driver that is not installed. Use "
            "pip install 'neuro[postgresql]', or hydra.sweeper.storage=null."
        ) from error


def trial_entry(url: str, study: str, number: int) -> str:
    """What the environment variable of a trial says."""
    return json.dumps({"storage": url, "study": study, "number": number})


def own_trial(pruner: Any) -> Trial | None:
    """The trial that this process runs; None if it runs none."""
    if not os.environ.get(TRIAL_VARIABLE):
        return None
    import optuna

    entry = json.loads(os.environ[TRIAL_VARIABLE])
    study = optuna.load_study(
        study_name=entry["study"], storage=open_storage(entry["storage"]), pruner=pruner
    )
    storage = study._storage
    return optuna.trial.Trial(
        study, storage.get_trial_id_from_study_id_trial_number(study._study_id, entry["number"])
    )
