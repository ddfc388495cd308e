"""The description of a run for run_meta.json: identity, times, command and software versions."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from neuro.config.experiment import RunSettings

#: packages whose versions are recorded
PACKAGES = ("neuro", "torch", "numpy", "hydra-core", "lightning-fabric", "lava-nc")

#: file at the root of a search's copy of the code: the revision that was copied
REVISION_FILE = "revision.json"


def without_password(text: str) -> str:
    """Replace the password of every URL in a text by stars."""
    text = re.sub(r"(://[^:/@\s]*:)[^\s'\"]*@", r"\1***@", text)
    return re.sub(r"([?&]password=)[^&\s'\"]*", r"\1***", text)


def now() -> str:
    """The local time in ISO form, with milliseconds, by which runs are ordered, and offset."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def describe_run(
    settings: RunSettings, run_id: str, overrides: Sequence[str], config_dir: str | None
) -> dict[str, Any]:
    """The description of a run that is about to start.

    `config_dir`: directory of the user's own options (`--config-dir`), if there is one.
    """
    return {
        "run_id": run_id,
        "name": settings.name,
        "project": settings.project,
        "group": settings.group,
        "tags": list(settings.tags),
        "mode": settings.mode,
        "seed": settings.seed,
        "status": "running",
        "started": now(),
        "finished": None,
        "error": None,
        "command": without_password(shlex.join([Path(sys.executable).name, *sys.argv])),
        "overrides": list(overrides),
        "config_dir": config_dir,
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": _versions(),
        "git": git_revision(),
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@functools.cache
def git_revision() -> dict[str, Any] | None:
    """Commit of this code, and whether the checkout has changes; None without git.

    Cached, so that all runs of a process report the same revision. A search's copy of the code
    has a file with the revision that was copied.
    """
    root = Path(__file__).parents[2]
    if (root / REVISION_FILE).exists():
        copied: dict[str, Any] | None = json.loads((root / REVISION_FILE).read_text())
        return copied
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=5
    )
    return done.stdout.strip()
