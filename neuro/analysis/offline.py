"""Lists W&B's offline files below a directory and the command that uploads them.

Every start of a run, also a resume, writes a folder `<run>/wandb/offline-run-<time>-<id>`.
`wandb sync` uploads a run's folders in the order of their times as one W&B run, writes a file
`<name>.wandb.synced` beside each uploaded file, and skips files that have one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from neuro.runs.record import RunRecord, find_runs

#: most folders that the upload command lists; with more, it pipes them from `neuro wandb`
_MAX_LISTED = 3


class OfflineRun(NamedTuple):
    """A run with its offline files, oldest first; `waiting` are those not uploaded yet."""

    run: RunRecord
    files: tuple[Path, ...]
    waiting: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """The argument for `wandb sync`."""
        return self.run.path / "wandb"

    @property
    def state(self) -> str:
        """`synced`, `waiting`, or `waiting (1 of 2 files)` for a resumed run."""
        if not self.waiting:
            return "synced"
        part = f" ({len(self.waiting)} of {len(self.files)} files)"
        return "waiting" + part * (len(self.waiting) < len(self.files))


def find_offline(root: Path) -> list[OfflineRun]:
    """The runs at or below a directory that have offline files, sorted by path.

    ConfigError if the directory does not exist.
    """
    found = []
    for run in find_runs(root):
        files = tuple(sorted((run.path / "wandb").glob("offline-run-*/*.wandb")))
        waiting = tuple(file for file in files if not file.with_suffix(".wandb.synced").exists())
        if files:
            found.append(OfflineRun(run, files, waiting))
    return found


def waiting_folders(runs: Sequence[OfflineRun]) -> list[str]:
    """The arguments for `wandb sync`, quoted for a shell."""
    return [shlex.quote(str(run.folder)) for run in runs if run.waiting]


def sync_command(root: Path, runs: Sequence[OfflineRun]) -> str | None:
    """The command that uploads all waiting files; None if there are none."""
    folders = waiting_folders(runs)
    if not folders:
        return None
    if len(folders) <= _MAX_LISTED:
        return f"wandb sync {' '.join(folders)}"
    return f"python -m neuro wandb {shlex.quote(str(root))} --folders | xargs wandb sync"
