"""Freed memory stays with the process, for all of its threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import ctypes, resource, sys, threading
from neuro.runtime.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)
faults = []
libc = ctypes.CDLL(None)  # NumPy asks for larger pages
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def work():
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(40 << 20)
        libc.memset(block, 1, 40 << 20)
        libc.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start() if sys.argv[2] == "thread" else work()
thread.join() if sys.argv[2] == "thread" else None
print(min(faults))
"""


def faults(keep: str, where: str) -> int:
    """Page faults of 40 MiB that were used and freed before."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, keep, where], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("no glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's options")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_large_blocks_are_not_mapped_again(where: str) -> None:
    assert faults("keep", where) < 100
    assert faults("leave", where) > 1000  # by pages of 4 KiB 10 240, by larger ones fewer
