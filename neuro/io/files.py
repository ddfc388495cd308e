"""Atomic writing of files: written to a temporary file beside their path, synced, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neuro.errors import CheckpointError, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` if the block raises no error.

    Content and name are synced to disk. The file gets the default permissions of new files, also if
    it is written by a library that creates private ones (as safetensors does). `size` is about how
    many bytes will be written, for the message of StorageError; `path` then stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _usual_mode(temporary)
        yield temporary
        with suppress(PermissionError):  # FAT, exFAT and some network shares have no permissions
            os.chmod(temporary, mode)
        # Without a sync a crash of the machine could leave the new name with an empty file.
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except Exception as error:
        if not is_disk_full(error):
            raise
        temporary.unlink(missing_ok=True)  # what it took counts as free in the message
        raise StorageError(full_message(path, size)) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """True for an error of a full disk or an exhausted quota.

    safetensors and h5py raise errors of their own, which only quote the system's message.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(os.strerror(code) in str(error) for code in _FULL)


def disk_of(path: Path) -> Path:
    """The mount point of the file system that holds a path, which need not exist yet."""
    place = path.resolve()
    while not os.path.ismount(place):
        place = place.parent
    return place


def full_message(path: Path, size: int | None) -> str:
    """Which disk is full, and how much is missing if a file of about `size` bytes shall fit."""
    disk = disk_of(path)
    free = shutil.disk_usage(disk).free
    text = f"{path} cannot be written: the disk {disk} is full"
    if size is None or size <= free:  # a quota, or space that others took and gave back meanwhile
        return f"{text} ({free / 1e6:.1f} MB free)."
    return (
        f"{text}: {size / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free, "
        f"so {(size - free) / 1e6:.1f} MB are missing."
    )


def hard_link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, atomically replacing an existing file.

    It becomes a copy where the file system has no hard links (exFAT, SMB, many FUSE mounts).
    """
    if target.exists() and os.path.samefile(source, target):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # EPERM, ENOTSUP, ENOSYS, EMLINK, ...: systems do not agree on the number
        with replacing(target, source.stat().st_size) as copy:
            shutil.copyfile(source, copy)
        return
    os.replace(temporary, target)


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


def overwrite_json(path: Path, value: Any) -> bool:
    """Write JSON over an existing file without taking more of the disk; False if it does not fit.

    For a full disk: not atomic, but the file's blocks are there already.
    """
    text = (json.dumps(finite(value), indent=2, allow_nan=False) + "\n").encode()
    if len(text) > path.stat().st_blocks * 512:
        return False
    with path.open("r+b") as file:
        file.write(text)
        file.truncate()
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. CheckpointError if it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
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
    """Sync a directory to disk, which makes the renaming of files in it durable.

    Some network and FUSE file systems cannot; their files are as durable as they make them.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
