"""Configuration of glibc's allocator to keep freed memory, which the next training step reuses.

By default glibc returns large blocks to the system when they are freed, and every new block is
zeroed and mapped page by page: a quarter of the training time of a spiking network on a CPU.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt in <malloc.h>
_LIMIT = 2**30 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 1 GiB; returns False if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LIMIT) and mallopt(_M_TRIM_THRESHOLD, _LIMIT))
