"""The directory of a run: made when training begins, with a status that is always true."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from neuro.errors import (
    ConfigError,
    Interrupted,
    OutOfMemoryError,
    ProcessLostError,
    TrialPruned,
    nearest,
)
from neuro.io import checkpoint
from neuro.io.files import write_json, write_text
from neuro.runs.metadata import now
from neuro.runs.record import META, SET, is_run


def check_unused(directory: Path) -> None:
    """ConfigError if a run cannot make its home in a directory."""
    if is_run(directory):
        raise ConfigError(
            f"hydra.run.dir: {directory} holds a run already. Continue it with "
            f"resume={directory}, or choose another directory."
        )
    if directory.exists() and not os.access(directory, os.W_OK):
        raise ConfigError(f"hydra.run.dir: {directory} is not writable.")


def discard_unused(directory: Path) -> None:
    """Remove the directory that Hydra made for a run that never began, and its empty parents."""
    if (directory / META).exists():
        return
    with suppress(OSError):
        (directory / "run.log").unlink(missing_ok=True)
        for folder in (directory, *directory.parents[:2]):  # <runs_dir>/<name>/<run id>
            folder.rmdir()


@contextmanager
def keeping_status(
    directory: Path, config: Mapping[str, Any], meta: Mapping[str, Any]
) -> Iterator[None]:
    """Make the run directory, and keep the status in run_meta.json true whatever happens."""
    path = directory / META
    try:
        write_text(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        write_json(path, meta)
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir: cannot write to {directory} ({error.strerror})."
        ) from error

    def finish(status: str, error: BaseException | None = None) -> None:
        text = None if error is None else f"{type(error).__name__}: {error}".rstrip(": ")
        described = json.loads(path.read_text(encoding="utf-8"))  # the run may have added to it
        write_json(path, {**described, "status": status, "finished": now(), "error": text})

    whole = directory.parent if "repeat" in meta else directory
    again = f" Continue with: python launch.py resume={whole}"
    if meta["mode"] == SET:  # the repeat in it has said so
        again = ""
    try:
        yield
    except Interrupted as error:
        finish("interrupted", error)
        raise Interrupted(f"{error}{again}") from None
    except KeyboardInterrupt as error:
        finish("interrupted", error)
        raise Interrupted(f"Stopped at once; the last checkpoint holds.{again}") from None
    except TrialPruned as error:
        finish("pruned", error)
        raise
    except (OutOfMemoryError, ProcessLostError) as error:
        finish("failed", error)
        raise type(error)(f"{error}{again}") from error
    except BaseException as error:
        finish("failed", error)
        raise
    finish("completed")


def load_checkpoint(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A checkpoint, or the one before if it is damaged; the notes then say so."""
    state, warning = checkpoint.load_or_previous(path)
    return state, (warning,) if warning else ()


def checkpoint_path(directory: Path, name: str, key: str = "checkpoint") -> Path:
    """A checkpoint by name (`best`, `last`, `ema`, `<phase>-final`, `step-...`) or as a file.

    `key` is what names it in the config.
    """
    if name.endswith(checkpoint.SUFFIX):
        return Path(name)
    path = directory / "checkpoints" / f"{name}{checkpoint.SUFFIX}"
    if not path.is_file():
        available = sorted(p.stem for p in path.parent.glob(f"*{checkpoint.SUFFIX}"))
        raise ConfigError(
            f"{key}: {directory} has no '{name}'. It has: {', '.join(available) or 'none'}."
            + nearest(name, available)
        )
    return path
