"""The lock of a run: one process at a time writes to a run directory.

`run.lock` holds an advisory lock (flock) for as long as the process lives, however it ends; the
file is removed when a run ends normally. It also names the host and the process, for messages and
for file systems without locks. There, a process of this host counts as alive if one with its id and
start time exists, and a process of another host for as long as the file exists.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from neuro.errors import ConfigError, RunInUse

try:
    import fcntl
except ImportError:  # Windows: the process named in the file decides
    fcntl = None  # type: ignore[assignment]

#: name of the file inside a run directory
FILE = "run.lock"

#: errors of flock on file systems that have no locks (some of NFS, Lustre and FUSE)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

#: seconds for which locking is retried, because `holder` takes the lock briefly to test it
_PATIENCE_S = 0.5

#: directories that this process has locked
_held: set[Path] = set()


class Holder(NamedTuple):
    """The process that writes to a run: its host, id, and start in seconds since 1970."""

    host: str
    pid: int
    started: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host or 'an unknown host'}"

    @property
    def exists(self) -> bool:
        """Whether the process may be alive, judged by host, process id and start time alone."""
        if self.host != platform.node():
            return True
        import psutil

        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1.0
        except psutil.Error:
            return False


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which is created if it is missing.

    Nested calls within a process share the lock. RunInUse if another process holds it, ConfigError
    if the directory is not writable.
    """
    path = directory.resolve()
    if path in _held:
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = _acquire(path / FILE)
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir: cannot write to {directory} ({error.strerror})."
        ) from error
    if handle is None:
        raise RunInUse(
            f"{directory}: {holder(directory) or 'another process'} is running it. Wait until it "
            f"ends, or stop it; if that process is gone, delete {directory / FILE}."
        )
    _held.add(path)
    try:
        yield
    finally:
        _held.remove(path)
        with suppress(OSError):  # the directory was removed or moved during the run
            if os.path.samestat(os.fstat(handle), os.stat(path / FILE)):
                # before the lock is released: after it, the file may be another process's
                os.unlink(path / FILE)
        os.close(handle)


def holder(directory: Path) -> Holder | None:
    """The living process that writes to a run; None if there is none."""
    path = directory / FILE
    if directory.resolve() in _held:
        return _read(path)
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        found = _read(path)
        free = _flock(handle, exclusive=False)
    finally:
        os.close(handle)
    alive = found.exists if free is None else not free
    return found if alive else None


def _acquire(path: Path) -> int | None:
    """Open and lock the file, and write this process into it; None if another process has it."""
    import psutil

    own = Holder(platform.node(), os.getpid(), psutil.Process().create_time())
    until = time.monotonic() + _PATIENCE_S
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        free = _flock(handle, exclusive=True)
        if free is None:  # no locks on this file system
            named = _read(path)
            free = not named.pid or not named.exists
        with suppress(FileNotFoundError):  # the last holder removed it after it was opened here
            if free and os.path.samestat(os.fstat(handle), os.stat(path)):
                os.truncate(handle, 0)
                os.pwrite(handle, json.dumps(own._asdict()).encode(), 0)
                return handle
        os.close(handle)
        if not free and time.monotonic() > until:
            return None
        time.sleep(0.02)


def _flock(handle: int, *, exclusive: bool) -> bool | None:
    """Try to lock; True if it is held now, False if another has it, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read(path: Path) -> Holder:
    """The process that the file names; without host and id if it is empty or damaged."""
    try:
        content = json.loads(path.read_bytes())
        return Holder(str(content["host"]), int(content["pid"]), float(content["started"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Holder("", 0, 0.0)
