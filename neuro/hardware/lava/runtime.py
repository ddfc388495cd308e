"""Control of Lava's runtime: no global side effects, and no processes left behind.

Lava forks an operating system process for every node of the graph; they wait for each other on
semaphores. If one of them dies (out of memory, an exception), the others and the program wait
forever; if the program is killed, they stay. This module detects dead processes, and ends all of
them with the run or with the program.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from neuro.hardware.lava.imports import import_lava

POLL_S = 1e-3  # interval of checks whether a run is done
ALIVE_S = 1.0  # interval of checks whether all processes are alive
PR_SET_PDEATHSIG = 1  # Linux prctl option: signal that a process gets when its parent dies

_STOPPING = {signal.SIGINT, signal.SIGTERM}
_forks_for_lava = False


@contextmanager
def lava_session() -> Iterator[None]:
    """Restore logging, warnings and multiprocessing after Lava was imported and used inside.

    At import Lava sets the start method to "fork", which it needs to run, and which fails if a
    method is set already. Every process of a graph adds a handler to the root logger, and stays in
    a global list with its data.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    handlers = logging.getLogger().handlers[:]
    multiprocessing.set_start_method(None, force=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_lava()
            from lava.magma.core.process.process import ProcessServer

            multiprocessing.set_start_method("fork", force=True)
            known = len(ProcessServer().processes)
            try:
                yield
            finally:
                del ProcessServer().processes[known:]
    finally:
        logging.getLogger().handlers[:] = handlers
        multiprocessing.set_start_method(method, force=True)


@contextmanager
def running(process: Any) -> Iterator[Callable[[int], None]]:
    """Compile the graph of `process`, and yield a function that runs it for a number of steps.

    States are kept between calls. A call raises RuntimeError if a process of Lava has died. Ctrl-C
    and SIGTERM take effect inside calls only, so that they cannot interrupt the cleanup.
    """
    from lava.magma.core.run_configs import Loihi2SimCfg

    resource_tracker.ensure_running()  # starting it later would unblock the signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)  # forked processes inherit it
    stopped = False
    try:
        with _dying_with_parent():
            process.create_runtime(Loihi2SimCfg(select_tag="fixed_pt"))
        yield functools.partial(_run, process, mask)
        process.stop()
        stopped = True
    finally:
        if not stopped and process.runtime is not None:
            _kill(process.runtime)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run(process: Any, mask: set[int | signal.Signals], steps: int) -> None:
    """Run some steps as Lava's blocking run does, but check that its processes are alive."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

    process.run(RunSteps(num_steps=steps, blocking=False))
    (answers,) = process.runtime.service_to_runtime  # one service: all processes share a protocol
    checked = time.monotonic()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while not (answers.probe() and enum_equal(answers.peek(), MGMT_RESPONSE.DONE)):
            time.sleep(POLL_S)
            if time.monotonic() - checked > ALIVE_S:
                checked = time.monotonic()
                _raise_for_dead(process.runtime)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    process.wait()


def _raise_for_dead(runtime: Any) -> None:
    dead = [actor for actor in _actors(runtime) if not actor.is_alive()]
    if dead:
        tracebacks = [actor.exception[1] for actor in dead if actor.exception]
        cause = f":\n{tracebacks[0]}" if tracebacks else f" (exit code {dead[0].exitcode})."
        raise RuntimeError(f"A process of Lava's graph died{cause}")


def _kill(runtime: Any) -> None:
    """Kill all processes: in the middle of a run they do not react to Lava's stop."""
    for actor in _actors(runtime):
        actor.kill()
    runtime._is_started = False  # otherwise Lava sends a stop and waits for answers
    runtime.stop()


def _actors(runtime: Any) -> list[Any]:
    """Operating system processes of a runtime that have not finished."""
    infrastructure = runtime._messaging_infrastructure
    return [] if infrastructure is None else [a for a in infrastructure.actors if not a._is_done]


@contextmanager
def _dying_with_parent() -> Iterator[None]:
    """Make Linux kill the processes forked inside when this program ends."""
    global _forks_for_lava
    _register_fork_hook()
    _forks_for_lava = True
    try:
        yield
    finally:
        _forks_for_lava = False


@functools.cache  # a hook cannot be removed, so it is registered once and enabled by a flag
def _register_fork_hook() -> None:
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl

    def after_fork() -> None:
        if _forks_for_lava:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    os.register_at_fork(after_in_child=after_fork)
