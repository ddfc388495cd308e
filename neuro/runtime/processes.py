"""The processes of one run: started here or by torchrun, stopped together, and heard as one.

On one machine Lightning Fabric spawns them (several devices, no torchrun); the parent waits, passes
signals on and keeps the run's status. torchrun starts launch.py itself in every process; the main
one then does what the parent does elsewhere, and the others keep still. Nothing here imports torch
before it is needed: launch.py asks for ranks before it composes a config.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from neuro.errors import DivergedError, Interrupted, NeuroError, ProcessLostError

#: errors that all processes agree on and raise at the same update
_COMMON = (Interrupted, DivergedError)

#: what collective operations say when another process is gone
_LOST = ("connection closed", "connection reset", "broken pipe", "gloo", "nccl")

#: torch, as it is loaded, keeps to itself that a model without a local rule could be searched less
_NO_ADVICE = ("TORCH_CPP_LOG_LEVEL", "ERROR")


def started_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_helper() -> bool:
    """Whether torchrun started this process beside the main one."""
    return started_by_torchrun() and os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def in_the_background() -> Iterator[list[str]]:
    """Overrides with which a helper of torchrun leaves no trace; it prints nothing meanwhile."""
    if started_by_torchrun():
        os.environ.setdefault(*_NO_ADVICE)
    if not is_helper():
        yield []
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield [
            f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep",
            "hydra/job_logging=disabled",
        ]  # fmt: skip


def are_spawned(fabric: Any) -> bool:
    """Whether the run's processes are still to be started by this one."""
    return bool(fabric.world_size > 1) and not started_by_torchrun()


def join(fabric: Any, directory: Path) -> Path:
    """Under torchrun: meet the other processes; the main one's run directory for all of them."""
    if not started_by_torchrun():
        return directory
    fabric.launch()
    return Path(fabric.broadcast(str(directory.absolute())))


def launch(fabric: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(fabric, *arguments)` in every process; returns what the main one returns.

    An error of any process ends all of them and is raised here: the one that came first.
    ProcessLostError if a process was killed.
    """
    if fabric.world_size == 1:
        return work(fabric, *arguments)
    if not are_spawned(fabric):
        try:
            return work(fabric, *arguments)
        except RuntimeError as error:
            raise _lost_or(error) from error
    return _spawn(fabric, work, arguments)


def _spawn(fabric: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    context = multiprocessing.get_context("spawn")
    errors, records = context.SimpleQueue(), context.Queue()
    listener = logging.handlers.QueueListener(
        records, *logging.getLogger().handlers, respect_handler_level=True
    )
    port = os.environ.get("MASTER_PORT")
    os.environ.setdefault(*_NO_ADVICE)
    listener.start()
    packed = pickle.dumps(arguments)  # Fabric would copy its way through the objects' fields
    with _passing_signals_on() as received:
        try:
            result = pickle.loads(fabric.launch(_process, work, errors, records, packed))
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise _cause(error, errors, bool(received), fabric.world_size) from None
        finally:
            listener.stop()
            records.close()
            if port is None:  # the next job of a sweep looks for a free one again
                os.environ.pop("MASTER_PORT", None)
    if isinstance(result, BaseException):
        raise result
    return result


def _process(
    fabric: Any, work: Callable[..., Any], errors: Any, records: Any, packed: bytes
) -> bytes:
    """A spawned process: its result, or an error that all of them have, pickled.

    A helper ends without closing down Python. Threads of the process group may still be at work,
    and one that asks for Python's lock while that is closed down aborts the process, which would
    look like a lost one. The main process has long been alone when it ends.
    """
    root = logging.getLogger()
    if fabric.is_global_zero:
        root.addHandler(logging.handlers.QueueHandler(records))
        root.setLevel(logging.INFO)
    else:
        root.addHandler(logging.NullHandler())
    try:
        result = work(fabric, *pickle.loads(packed))
    except _COMMON as error:
        result = error
    except BaseException as error:
        found = _lost_or(error) if isinstance(error, RuntimeError) else error
        if not isinstance(found, (NeuroError, KeyboardInterrupt)):
            found = RuntimeError(f"in process {fabric.global_rank}:\n{traceback.format_exc()}")
        errors.put((fabric.global_rank, pickle.dumps(found)))
        records.close()
        records.join_thread()
        sys.stdout.flush()
        os._exit(1)  # at once: a process group that has lost a member may hang while it is closed
    if not fabric.is_global_zero:
        sys.stdout.flush()
        os._exit(0)
    return pickle.dumps(result)


def _cause(error: Any, errors: Any, asked: bool, processes: int) -> BaseException:
    """Why the processes ended: the first error of their own, or which of them was lost."""
    from torch.multiprocessing import ProcessRaisedException

    told: dict[int, BaseException] = {}
    while not errors.empty():
        rank, content = errors.get()
        told[rank] = pickle.loads(content)
    own = [found for found in told.values() if not isinstance(found, ProcessLostError)]
    if own:
        return own[0]
    if isinstance(error, ProcessRaisedException):  # raised by Fabric, before or after the work
        return RuntimeError(f"in process {error.error_index}:{error.msg}")
    if asked:
        return Interrupted("Interrupted while processes were starting or ending.")
    silent = [rank for rank in range(processes) if rank not in told]
    if getattr(error, "signal_name", None) is not None:
        how = f"process {error.error_index} was ended by {error.signal_name}"
    elif silent:
        how = f"process {silent[0]} ended without a word"
    else:
        how = "the processes lost touch with each other"
    return ProcessLostError(
        f"{how[0].upper()}{how[1:]}; the others were stopped. The last checkpoint holds."
    )


def _lost_or(error: RuntimeError) -> BaseException:
    """The error, or that another process is gone if that is what it says."""
    text = f"{type(error).__name__} {error}".lower()
    if "dist" in type(error).__name__.lower() or any(sign in text for sign in _LOST):
        return ProcessLostError("Another process of this run is gone. The last checkpoint holds.")
    return error


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C reach the processes, which stop after their update; we wait for them."""
    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGTERM)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not in the main thread
            previous[number] = signal.signal(number, pass_on)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
