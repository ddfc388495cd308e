"""Directories and ids of runs: `<runs_dir>/<name>/<run id>`, and the old one of a resumed run."""

from __future__ import annotations

import functools
import secrets
import time
from pathlib import Path

from neuro.config.names import checked_name
from neuro.config.paths import expanded
from neuro.errors import ConfigError
from neuro.runs.resume import locate


def new_id() -> str:
    """A unique id: the local time and four random hexadecimal digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@functools.cache
def process_id() -> str:
    """The id of the run that this process was started for."""
    return new_id()


def shown(path: Path) -> Path:
    """A path for messages: relative to the working directory if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def id_of(directory: Path) -> str:
    """The id of a new run: the name of its directory, or a new id if that is not a run id.

    A sweep names directories by the numbers of its jobs, and a user may choose any name.
    """
    return process_id() if directory.name == process_id() else new_id()


def run_directory(runs_dir: str, name: str, resume: str | None) -> str:
    """The directory of a new run, or of the run that `resume` names. ConfigError for a bad name."""
    if resume is not None:
        return str(locate(resume, "resume").directory)
    try:
        return str(Path(expanded(runs_dir)) / checked_name(str(name)) / process_id())
    except ValueError as error:  # Hydra creates this directory before the config is parsed
        raise ConfigError(f"name: got {name!r}; {error}.") from error
