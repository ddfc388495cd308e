"""The allocator keeps what training frees, since the next step needs the same again.

glibc hands blocks above a threshold back to the system at every free, and every new one is then
zeroed and mapped page by page: a quarter of a spiking network's training time on a CPU. Threads
share one arena, because those of their own hold blocks of up to 64 MiB at most, and hand larger
ones back: a quarter of the time in which `data/prefetch.py` reads large batches.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>
_LIMIT = 2**30 - 1  # bytes; glibc takes no more than an int here


def keep_freed_memory() -> bool:
    """Tell glibc to keep blocks of up to 1 GiB; whether there was a glibc to tell."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    options = {_M_MMAP_THRESHOLD: _LIMIT, _M_TRIM_THRESHOLD: _LIMIT, _M_ARENA_MAX: 1}
    return all(mallopt(option, value) for option, value in options.items())
