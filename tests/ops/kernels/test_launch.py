"""The kernel launcher: chunks, threads, forks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from unittest import mock

import pytest
import torch

from neuro.ops import lif
from neuro.ops.kernels import launch
from neuro.ops.kernels.launch import CACHE_LINE, MIN_CHUNK, chunks


def spikes(current: torch.Tensor) -> torch.Tensor:
    return lif(current, decay=0.9, threshold=0.7).spikes_TBN


@pytest.mark.parametrize("width", [1, 15, 16, 17, 1000, 4096])
@pytest.mark.parametrize("elements", [1, MIN_CHUNK * 2, MIN_CHUNK * 100])
def test_chunks_tile_the_width(width: int, elements: int) -> None:
    found = chunks(width, elements)
    assert found[0][0] == 0 and found[-1][1] == width
    assert all(left[1] == right[0] for left, right in itertools.pairwise(found))
    assert all(start % CACHE_LINE == 0 for start, _ in found)
    assert len({stop - start for start, stop in found[:-1]}) <= 1
    assert len(found) <= torch.get_num_threads()


def test_several_python_threads_at_once() -> None:
    current = torch.randn(50, 8, 1000)
    expected = spikes(current)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(spikes, [current] * 12):
            assert torch.equal(got, expected)


def test_a_change_of_any_file_of_ops_compiles_kernels_again() -> None:
    spikes(torch.randn(5, 2, 16))
    cached = launch.compiled("spiking").lif_forward._cache._cache_file
    names = {name for name, *_ in cached._source_stamp}
    assert {"lanes.py", "spiking.py", "fixed_point.py"} <= names
    assert cached._load_index()
    with mock.patch.object(cached, "_source_stamp", cached._source_stamp[1:]):
        assert not cached._load_index()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_works_in_a_forked_child() -> None:
    """In a separate process, because pytest's must not fork while torch's threads run."""
    script = """
import os, torch
from neuro.ops import lif
current = torch.randn(50, 8, 1000)
expected = lif(current, decay=0.9, threshold=0.7).spikes_TBN
child = os.fork()
if child == 0:
    same = torch.equal(lif(current, decay=0.9, threshold=0.7).spikes_TBN, expected)
    os._exit(0 if same else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_kernels_stay_out_of_compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    def spikes(current: torch.Tensor) -> torch.Tensor:
        return lif(2 * current, decay=0.9, threshold=0.7).spikes_TBN

    def watched(module: str) -> ModuleType:
        traced.append(torch.compiler.is_compiling())
        return kernels(module)

    traced: list[bool] = []
    kernels = launch.compiled
    monkeypatch.setattr(launch, "compiled", watched)
    current = torch.randn(50, 8, 100, requires_grad=True)
    results = []
    for function in (spikes, torch.compile(spikes, backend="eager")):
        found = function(current)
        found.sum().backward()
        results.append((found, current.grad))
        current.grad = None
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert traced == [False] * 4


def test_importing_ops_imports_no_compiler() -> None:
    script = "import sys, neuro.ops; assert not {'numba', 'torch._dynamo'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_busy_waiting_of_torch_threads_is_limited(given: dict[str, str], spins: str) -> None:
    script = "import os, neuro; print(os.environ.get('GOMP_SPINCOUNT'))"
    unset = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=unset | given, capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().strip() == spins


def test_without_a_writable_cache_a_temporary_one_is_used() -> None:
    """Numba's cache directories are disabled, as by a read-only checkout and home."""
    code = """
import os, logging, torch
from numba.core import caching
caching.CacheImpl._locator_classes = [caching.UserProvidedCacheLocator]
from neuro.ops.kernels import launch
warned = []
launch.log.warning = warned.append
squid = launch.compiled("squid")
(text,) = warned
assert "NUMBA_CACHE_DIR=" in text, text
print(os.environ["NUMBA_CACHE_DIR"])
"""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    directory = done.stdout.strip()
    assert "neuro-numba-" in directory and not os.path.exists(directory)
