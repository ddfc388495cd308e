"""Atomic writing of files: written to a temporary file beside their path, synced, then renamed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuro.errors import CheckpointError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` if the block raises no error.

    Content and name are synced to disk. The file gets the default permissions of new files, also if
    it is written by a library that creates private ones (as safetensors does).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    mode = _usual_mode(temporary)
    try:
        yield temporary
        os.chmod(temporary, mode)
        # Without a sync a crash of the machine could leave the new name with an empty file.
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def hard_link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, atomically replacing an existing file."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # os.replace leaves it if both were the same file


def clean(directory: Path) -> None:
    """Remove temporary files of interrupted writes, those of safetensors included."""
    # ".*.tmp" are those of `replacing`, ".tmp*" those of safetensors
    for leftover in [*directory.glob(".*.tmp"), *directory.glob(".tmp*")]:
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities, which JSON lacks, become null."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. CheckpointError if it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(content).__name__}.")
    return content


def finite(value: Any) -> Any:
    """The same structure with None for floats that are NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _usual_mode(path: Path) -> int:
    """Permissions of a new file at `path`.

    They are read from a file created for the purpose, because reading the umask needs changing it.
    """
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode
    path.unlink()
    return mode


def _sync_directory(directory: Path) -> None:
    """Sync a directory to disk, which makes the renaming of files in it durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
