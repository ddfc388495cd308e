"""Run directories: creation, the status that a run ends with, and access to checkpoints."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from neuro.config import commands
from neuro.config.paths import expanded
from neuro.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    OutOfMemoryError,
    ProcessLostError,
    StorageError,
    TrialPruned,
    nearest,
)
from neuro.io import checkpoint
from neuro.io.files import overwrite_json, read_json, write_json, write_text
from neuro.runs import lock
from neuro.runs.metadata import now
from neuro.runs.record import CONFIG_DIGEST, META, digest, is_run
from neuro.runs.state import write_state

log = logging.getLogger("neuro")


def check_unused(directory: Path) -> None:
    """ConfigError if a directory holds a run or is not writable."""
    if is_run(directory):
        raise ConfigError(
            f"hydra.run.dir: {directory} holds a run already. Continue it with "
            f"{commands.argument('resume', str(directory))}, or choose another directory."
        )
    if directory.exists() and not os.access(directory, os.W_OK):
        raise ConfigError(f"hydra.run.dir: {directory} is not writable.")


def discard_unused(directory: Path) -> None:
    """Remove the directory that Hydra made for a run that never began, and empty parents of it."""
    if (directory / META).exists():
        return
    with suppress(OSError):
        for name in ("run.log", lock.FILE):
            (directory / name).unlink(missing_ok=True)
        for folder in (directory, *directory.parents[:2]):  # <runs_dir>/<name>/<run id>
            folder.rmdir()


@contextmanager
def keeping_status(
    directory: Path, config: Mapping[str, Any], meta: Mapping[str, Any]
) -> Iterator[None]:
    """Create and lock a run directory, and record the status of the block in run_meta.json.

    RunInUse if another process writes to the directory. StorageError if a file of the run cannot be
    written, also in mid-run.
    """
    continued = directory.parent if "repeat" in meta else directory  # repeats: the whole set
    advice = f" Continue with: {commands.resume(continued)}"
    if meta["mode"] != "train":  # of a set, the message of the repeat in it gives the command
        advice = ""
    with lock.locked(directory):
        try:
            text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
            write_text(directory / "config.yaml", text)
            write_json(directory / META, {**meta, CONFIG_DIGEST: digest(text)})
            write_state(directory, "running")
        except OSError as error:
            raise ConfigError(
                f"hydra.run.dir: cannot write to {directory} ({error.strerror})."
            ) from error
        try:
            yield
        except Interrupted as error:
            _finish(directory, "interrupted", error)
            raise Interrupted(f"{error}{advice}") from None
        except KeyboardInterrupt as error:
            _finish(directory, "interrupted", error)
            raise Interrupted(f"Stopped at once; the last checkpoint is valid.{advice}") from None
        except TrialPruned as error:
            _finish(directory, "pruned", error)
            raise
        except (OutOfMemoryError, ProcessLostError) as error:
            _finish(directory, "failed", error)
            raise type(error)(f"{error}{advice}") from error
        except StorageError as error:
            _finish(directory, "failed", error)
            if advice:
                advice = f" The last checkpoint is valid. Make room, then continue.{advice}"
            raise StorageError(f"{error}{advice}") from error
        except OSError as error:
            _finish(directory, "failed", error)
            if not _is_storage_error(error, directory):
                raise
            raise StorageError(f"{_storage_problem(error, directory)}{advice}") from error
        except BaseException as error:
            _finish(directory, "failed", error)
            raise
        _finish(directory, "completed")


def _finish(directory: Path, status: str, error: BaseException | None = None) -> None:
    """Write the final status; logs an error if it cannot be written."""
    text = None if error is None else f"{type(error).__name__}: {error}".rstrip(": ")
    try:
        described = read_json(directory / META)  # the run may have added to it
        described |= {"status": status, "finished": now(), "error": text}
        try:
            write_json(directory / META, described)
            write_state(directory, status)
        except StorageError:  # a full disk may still have room for the same file, in place
            if not overwrite_json(directory / META, described):
                raise
    except (OSError, CheckpointError, StorageError) as problem:
        log.error("%s: the status '%s' could not be written (%s).", directory, status, problem)


#: errors of a disk or its permissions, which name no file when they come from an open one
_STORAGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
)


def _is_storage_error(error: OSError, directory: Path) -> bool:
    """Whether an error is about writing the run's files."""
    named = isinstance(error.filename, (str, os.PathLike))
    if named and not Path(error.filename).resolve().is_relative_to(directory.resolve()):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return named or error.errno in _STORAGE


def _storage_problem(error: OSError, directory: Path) -> str:
    """The message for an error of writing to the disk: its cause, and what to do."""
    if not (directory / META).is_file():
        return (
            f"{directory}: the run directory was moved or deleted while the run was going on. If "
            "it was moved, use its new path."
        )
    where = error.filename or directory
    valid = "The last checkpoint is valid."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(directory).free / 2**20
        return (
            f"{where}: the disk is full or a quota is exceeded ({error.strerror}; {free:.0f} MiB "
            f"are free). {valid} Make room, then continue."
        )
    return f"{where}: cannot be written ({error.strerror}). {valid} Check disk and permissions."


def load_checkpoint(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Load a checkpoint, or the previous one if it is damaged; notes for the user say so.

    CheckpointError if both are damaged; lists the other checkpoints beside it.
    """
    try:
        state, warning = checkpoint.load_or_previous(path)
    except CheckpointError as error:
        previous = checkpoint.previous(path)
        found = sorted(path.parent.glob(f"*{checkpoint.SUFFIX}"))
        others = [other.stem for other in found if other not in (path, previous)]
        text = f"{error}"
        if previous in found:
            text = f"{path} and {previous.name} are damaged: {error}"
        if others:
            text += f" Other checkpoints of this run: {', '.join(others)}."
        raise CheckpointError(text) from error
    return state, (warning,) if warning else ()


def checkpoint_path(directory: Path, name: str, key: str = "checkpoint") -> Path:
    """Path of a checkpoint by name (`best`, `last`, `ema`, `<phase>-final`, `step-...`) or path.

    `key`: the config key that names it, for messages.
    """
    if name.endswith(checkpoint.SUFFIX):
        return Path(expanded(name))
    folder = directory / "checkpoints"
    path = folder / f"{name}{checkpoint.SUFFIX}"
    if "/" in name or not path.is_file():
        available = sorted(p.stem for p in folder.glob(f"*{checkpoint.SUFFIX}") if p.is_file())
        hint = nearest(name, available)
        if "/" in name:
            hint = f" A file must be a checkpoint, <run>/checkpoints/<name>{checkpoint.SUFFIX}."
        elif path.is_dir():
            hint = f" {path} is a directory."
        raise ConfigError(
            f"{key}: {directory} has no '{name}'. It has: {', '.join(available) or 'none'}.{hint}"
        )
    return path
