"""Where a run lives: `<runs_dir>/<name>/<run id>`, or where it lived before when it is resumed."""

from __future__ import annotations

import functools
import secrets
import time
from pathlib import Path

from neuro.continuation import locate


@functools.cache
def run_id() -> str:
    """A name for this process's run: the time it started, and four random digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def run_directory(runs_dir: str, name: str, resume: str | None) -> str:
    """The directory of a new run, or of the run that `resume` names."""
    if resume is not None:
        return str(locate(resume).directory)
    return str(Path(runs_dir) / name / run_id())
