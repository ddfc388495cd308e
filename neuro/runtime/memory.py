"""Memory of the machine and the process, and settings of glibc's allocator.

By default glibc returns freed large blocks to the system, and the kernel zeroes and maps each new
block page by page: a quarter of the training time of a spiking network on a CPU. Threads are made
to share one arena, because arenas of their own hold blocks of at most 64 MiB and return larger
ones, which costs a quarter of the time in which `data/prefetch.py` reads large batches.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

from neuro.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt in <malloc.h>
_LIMIT = 2**30 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 1 GiB; returns False if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    options = {_M_MMAP_THRESHOLD: _LIMIT, _M_TRIM_THRESHOLD: _LIMIT, _M_ARENA_MAX: 1}
    return all(mallopt(option, value) for option, value in options.items())


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes; 0 if it is not available."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def reset_peak_memory() -> None:
    """Begin `peak_memory` anew at the memory in use; without effect except on Linux."""
    with suppress(OSError, AttributeError):  # no such file, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed blocks that `keep_freed_memory` keeps
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak


def used_memory() -> int:
    """Resident set of this process, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available_memory() -> int:
    """Bytes that can be allocated without swapping, within the limits of a container."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:  # cgroup v2, which SLURM and Docker use; psutil sees the whole machine
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        return min(available, int(limit) - int(used))
    except (OSError, ValueError):
        return available


def check_memory(needed: int, what: str, advice: str) -> None:
    """ConfigError if `what`, a key with its value, needs more bytes than are available."""
    available = available_memory()
    if needed > available:
        raise ConfigError(
            f"{what}: {described_bytes(needed)} of memory are needed, but "
            f"{described_bytes(available)} are available. {advice}"
        )


def described_bytes(count: int) -> str:
    """A number of bytes for messages, such as "1.5 GiB"."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
