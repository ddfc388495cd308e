"""W&B's offline files below a directory: which are uploaded, and how to upload the others.

Every start of a run, a resumed one too, leaves a folder `<run>/wandb/offline-run-<time>-<id>`.
`wandb sync` puts a file `<name>.wandb.synced` beside what it has uploaded, takes a run's folders in
the order of their times as one W&B run, and passes over what is uploaded already.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from neuro.runs.record import RunRecord, find_runs

#: more folders than this are not spelled out in a command
_SPELLED_OUT = 3


class OfflineRun(NamedTuple):
    """A run's offline files, oldest first, and those of them that are not uploaded."""

    run: RunRecord
    files: tuple[Path, ...]
    waiting: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """What `wandb sync` takes."""
        return self.run.path / "wandb"

    @property
    def state(self) -> str:
        """`waiting`, `synced`, or how many files of a resumed run wait."""
        if not self.waiting:
            return "synced"
        part = f" ({len(self.waiting)} of {len(self.files)} files)"
        return "waiting" + part * (len(self.waiting) < len(self.files))


def find_offline(root: Path) -> list[OfflineRun]:
    """The runs at or below a directory that W&B followed offline, in the order of their paths.

    ConfigError if there is no such directory.
    """
    found = []
    for run in find_runs(root):
        files = tuple(sorted((run.path / "wandb").glob("offline-run-*/*.wandb")))
        waiting = tuple(file for file in files if not file.with_suffix(".wandb.synced").exists())
        if files:
            found.append(OfflineRun(run, files, waiting))
    return found


def waiting_folders(runs: Sequence[OfflineRun]) -> list[str]:
    """What to give to `wandb sync`, as a shell takes it."""
    return [shlex.quote(str(run.folder)) for run in runs if run.waiting]


def sync_command(root: Path, runs: Sequence[OfflineRun]) -> str | None:
    """The command that uploads what waits; None if nothing does."""
    folders = waiting_folders(runs)
    if not folders:
        return None
    if len(folders) <= _SPELLED_OUT:
        return f"wandb sync {' '.join(folders)}"
    return f"python -m neuro wandb {shlex.quote(str(root))} --folders | xargs wandb sync"
