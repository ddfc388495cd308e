"""Launcher of fused kernels: selects the implementation by device and runs it in threads.

Every kernel exists twice, with the same name and arguments: compiled by Numba for the CPU
(`spiking`), and as a torch loop for all other devices (`spiking_torch`). Dendrites have files of
their own, whose compiled kernels take float32 only. Kernels of integers (`integer`) and events
(`events`) exist for the CPU only. torch.compile traces the torch loops, not the compiled kernels.

On the CPU the features are split into one chunk per torch thread. The calling thread computes the
first chunk, a pool of Python threads the others (compiled kernels release the GIL). Numba's own
threading is not used: its OpenMP layer does not survive a fork and, beside torch's OpenMP pool,
took 0.7 or 8 ms for the same call; its workqueue layer must not be entered by two threads at once.
Torch's pool keeps spinning after each of its own operations and occupies the cores that chunks
need; `neuro/__init__.py` shortens that time.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from neuro.ops.kernels import dendrite_torch, spiking_torch
from neuro.ops.sources import SourceKind
from neuro.ops.squid import rate_table

log = logging.getLogger("neuro")

# Elements (time x features) per thread below which a thread costs more time than it saves.
MIN_CHUNK = 1 << 16
# Float32 values in a cache line. Chunks end at one, so that no two threads write to the same line.
CACHE_LINE = 16
# Features whose spikes are the bits of one word.
WORD = 64

Argument = Tensor | float | int | bool | None

P = ParamSpec("P")
R = TypeVar("R")


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Keep a function out of torch.compile's graphs: `torch.compiler.disable`, applied late.

    Applied as a decorator that would import torch._dynamo and sympy into every process, which
    takes two seconds. Without that module nothing is traced, and the function is called as it is.
    """
    disabled: Callable[P, R] | None = None

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            disabled = torch.compiler.disable(function)
            # or the frame of `call` would be compiled again for each of its arguments' values
            torch._dynamo.decorators.skip(call)
        return disabled(*args, **kwargs)

    return call


def launch(name: str, *args: Argument) -> None:
    """Run kernel `name`, which writes its results to tensors that the caller has allocated.

    Tensors are contiguous, of one float dtype, with the flattened features in the last dimension;
    None stands for an output that is not needed. The largest tensor determines the number of
    threads.
    """
    tensors = [a for a in args if isinstance(a, Tensor)]
    if tensors[0].device.type != "cpu":
        getattr(spiking_torch, name)(*args)
        return
    width, elements = tensors[0].shape[-1], max(t.numel() for t in tensors)
    _run("spiking", name, args, width, elements, line=WORD)


def launch_dendrites(name: str, kind: SourceKind, *args: Argument) -> None:
    """Run dendrite kernel `name` of source function `kind`; arguments as in `launch`."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    device, dtype = tensors[0].device, tensors[0].dtype
    if device.type != "cpu" or dtype != torch.float32:
        getattr(dendrite_torch, name)(kind, *args)
        return
    table = rate_table(dtype, device).flatten() if kind == "table" else None
    width, elements = tensors[0].shape[-1], max(t.numel() for t in tensors)
    _run("dendrite", f"{kind}_{name}", (*args, table), width, elements)


def launch_integers(name: str, width: int, elements: int, *args: Argument) -> None:
    """Run integer kernel `name`, which writes its results to CPU tensors of the caller.

    `width` is the number of features or rows to split into chunks; `elements`, the size of the
    largest tensor, determines the number of threads.
    """
    _run("integer", name, args, width, elements)


@untraced
def launch_events(name: str, rows: int, elements: int, *args: Argument) -> None:
    """Run event kernel `name` over `rows`; arguments as in `launch_integers`."""
    _run("events", name, args, rows, elements)


@untraced
def launch_selective_scan(name: str, *args: Tensor | None) -> None:
    """Run kernel `name` of the selective scan; the first argument is u `[T, B, D]`."""
    u, _, a = args[:3]
    assert u is not None and a is not None
    units = u.shape[1] * -(-u.shape[2] // compiled("selective_scan").BLOCK)
    _run("selective_scan", name, args, units, u.numel() * a.shape[0], line=1)


def launch_samples(
    module: str, name: str, batch: int, elements: int, *args: Tensor | float | bool
) -> None:
    """Run kernel `name` of a file, which splits the batch; arguments as in `launch_integers`."""
    _run(module, name, args, batch, elements, line=1)


@untraced
def _run(
    module: str,
    name: str,
    args: Sequence[Argument],
    width: int,
    elements: int,
    line: int = CACHE_LINE,
) -> None:
    """Call a compiled kernel, whose last arguments are [start, stop), for all chunks at once."""
    kernel = getattr(compiled(module), name)
    arrays = _to_numpy(args)
    first, *others = chunks(width, elements, line)
    pending = [_pool().submit(kernel, *arrays, *chunk) for chunk in others]
    try:
        kernel(*arrays, *first)
    finally:
        for future in pending:
            future.result()


@cache
def compiled(module: str) -> ModuleType:
    """Import a file of Numba kernels at first use: importing Numba takes half a second.

    Numba keeps compiled code beside the source files or in the user's cache directory. If it can
    write to neither, a temporary directory takes their place until this process ends.
    """
    name = f"neuro.ops.kernels.{module}"
    try:
        return import_module(name)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
    import numba

    directory = tempfile.mkdtemp(prefix="neuro-numba-")
    atexit.register(_remove, directory, os.getpid())
    os.environ["NUMBA_CACHE_DIR"] = directory  # for spawned processes
    numba.config.CACHE_DIR = directory  # type: ignore[attr-defined]  # set by Numba from a table
    log.warning(
        "Numba can write its cache neither beside the source files nor below the home directory; "
        "kernels are compiled again in every run. NUMBA_CACHE_DIR=<a writable directory> keeps "
        "them."
    )
    return import_module(name)


def _remove(directory: str, owner: int) -> None:
    """Remove a temporary cache, unless this is a forked child of its owner."""
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="neuro-ops")


# A forked child inherits the pool object but not its threads; it has to create its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


def chunks(width: int, elements: int, line: int = CACHE_LINE) -> list[tuple[int, int]]:
    """Split features into ranges [start, stop), one per thread.

    There is at least one range; all but the last have the same size, a multiple of `line`.
    """
    parts = max(1, min(torch.get_num_threads(), elements // MIN_CHUNK))
    step = -(-width // (parts * line)) * line
    return [(start, min(start + step, width)) for start in range(0, width, step)]


def _to_numpy(args: Sequence[Argument]) -> list[Any]:
    """Arguments of a compiled kernel: arrays that share the tensors' memory, and scalars.

    Python floats get the dtype of the tensors: a float64 scalar would promote float32 arithmetic.
    """
    dtype = next((a.dtype for a in args if isinstance(a, Tensor)), torch.float32)
    arrays: list[Any] = []
    for argument in args:
        if isinstance(argument, Tensor):
            arrays.append(argument.detach().numpy())
        elif isinstance(argument, float):
            arrays.append(torch.tensor(argument, dtype=dtype).numpy()[()])
        else:
            arrays.append(argument)
    return arrays
