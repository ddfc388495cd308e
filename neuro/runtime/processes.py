"""Processes of a run: start, joint termination, and collection of errors and log records.

On one machine Lightning Fabric spawns them (several devices, no torchrun); the parent waits,
forwards signals and records the run's status. torchrun starts launch.py in every process; the main
process then does the work of the parent, and the others write no output. Torch is imported only
where needed, because launch.py uses this module before it composes a config.

Errors cross to the parent as pickled objects, which keep their class and exit code.
torch.distributed.launcher's elastic_launch was tried in its place: it passes text only, prints its
own traceback before it, and would save no more than `_cause`.
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
from multiprocessing.queues import Queue, SimpleQueue
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from neuro.errors import DivergedError, Interrupted, NeuroError, ProcessLostError
from neuro.runtime.output import make_output_robust
from neuro.runtime.signals import stop_signals

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

T = TypeVar("T")

#: errors that all processes raise at the same update, so that none has to stop the others
_COMMON = (Interrupted, DivergedError)

#: parts of the messages of collective operations when another process has ended
_LOST = ("connection closed", "connection reset", "broken pipe", "gloo", "nccl")

#: hides the advice of DistributedDataParallel to search less for unused parameters
_NO_ADVICE = ("TORCH_CPP_LOG_LEVEL", "ERROR")


def started_by_torchrun() -> bool:
    """True if torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_helper() -> bool:
    """True for a process of torchrun other than the main one, which writes and prints."""
    return started_by_torchrun() and os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def quiet_helper() -> Iterator[list[str]]:
    """In a helper of torchrun: mute stdout, and yield overrides for a temporary run directory.

    Other processes are not changed, and get no overrides.
    """
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
            f"hydra.run.dir={folder}/run",
            f"hydra.sweep.dir={folder}/sweep",
            "hydra/job_logging=disabled",
        ]


def are_spawned(fabric: Fabric) -> bool:
    """True if this process has to start the processes of the run."""
    return fabric.world_size > 1 and not started_by_torchrun()


def join(fabric: Fabric, directory: Path) -> Path:
    """Under torchrun, join the process group; returns the run directory of the main process."""
    if not started_by_torchrun():
        return directory
    fabric.launch()
    return Path(fabric.broadcast(str(directory.absolute())))


def launch(fabric: Fabric, work: Callable[..., T], *arguments: object) -> T:
    """Run `work(fabric, *arguments)` in every process; returns the result of the main one.

    An error in any process ends all of them, and the first one is raised here. ProcessLostError if
    a process was killed.
    """
    if fabric.world_size == 1:
        return work(fabric, *arguments)
    if not are_spawned(fabric):
        try:
            return work(fabric, *arguments)
        except RuntimeError as error:
            raise _with_lost_process(error) from error
    return _spawn(fabric, work, arguments)


def _spawn(fabric: Fabric, work: Callable[..., T], arguments: tuple[object, ...]) -> T:
    """`launch` for processes that this one starts."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    context = multiprocessing.get_context("spawn")
    errors: SimpleQueue[tuple[int, bytes]] = context.SimpleQueue()
    records: Queue[logging.LogRecord] = context.Queue()
    listener = logging.handlers.QueueListener(
        records, *logging.getLogger().handlers, respect_handler_level=True
    )
    port = os.environ.get("MASTER_PORT")
    os.environ.setdefault(*_NO_ADVICE)
    listener.start()
    packed = pickle.dumps(arguments)  # as bytes, because Fabric traverses and copies other objects
    with _passing_signals_on() as received:
        try:
            result: T | BaseException = pickle.loads(
                fabric.launch(  # whose annotation allows no further arguments
                    _process,  # type: ignore[arg-type]
                    work,
                    errors,
                    records,
                    packed,
                )
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise _cause(error, errors, bool(received), fabric.world_size) from None
        finally:
            listener.stop()
            records.close()
            if port is None:  # set by Fabric; the next job of a sweep needs another port
                os.environ.pop("MASTER_PORT", None)
    if isinstance(result, BaseException):
        raise result
    return result


def _process(
    fabric: Fabric,
    work: Callable[..., object],
    errors: SimpleQueue[tuple[int, bytes]],
    records: Queue[logging.LogRecord],
    packed: bytes,
) -> bytes:
    """Entry of a spawned process; returns the result, or an error that all raise, pickled.

    Helpers end without finalising Python. Threads of the process group may still be active, and one
    that requests the interpreter lock during finalisation aborts the process, which would be
    reported as a lost process. The main process ends after all helpers.
    """
    make_output_robust()
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
        found = _with_lost_process(error) if isinstance(error, RuntimeError) else error
        if not isinstance(found, (NeuroError, KeyboardInterrupt)):
            found = RuntimeError(f"in process {fabric.global_rank}:\n{traceback.format_exc()}")
        errors.put((fabric.global_rank, pickle.dumps(found)))
        records.close()
        records.join_thread()
        sys.stdout.flush()
        os._exit(1)  # closing a process group that has lost a member may hang
    if not fabric.is_global_zero:
        sys.stdout.flush()
        os._exit(0)
    return pickle.dumps(result)


def _cause(
    error: ProcessExitedException | ProcessRaisedException,
    errors: SimpleQueue[tuple[int, bytes]],
    interrupted: bool,
    processes: int,
) -> BaseException:
    """Cause of the end of the processes: the first error raised in one, or a lost process."""
    from torch.multiprocessing import ProcessRaisedException

    reported: dict[int, BaseException] = {}
    while not errors.empty():
        rank, content = errors.get()
        reported[rank] = pickle.loads(content)
    own = [found for found in reported.values() if not isinstance(found, ProcessLostError)]
    if own:
        return own[0]
    if isinstance(error, ProcessRaisedException):  # raised by Fabric, before or after the work
        return RuntimeError(f"in process {error.error_index}:{error.msg}")
    if interrupted:
        return Interrupted("Interrupted while processes were starting or ending.")
    silent = [rank for rank in range(processes) if rank not in reported]
    if getattr(error, "signal_name", None) is not None:
        how = f"process {error.error_index} was ended by {error.signal_name}"
    elif silent:
        how = f"process {silent[0]} ended without an error message"
    else:
        how = "the processes lost the connection to each other"
    return ProcessLostError(
        f"{how[0].upper()}{how[1:]}; the others were stopped. The last checkpoint is valid."
    )


def _with_lost_process(error: RuntimeError) -> BaseException:
    """The error, or ProcessLostError if its message shows that another process has ended."""
    text = f"{type(error).__name__} {error}".lower()
    if "dist" in type(error).__name__.lower() or any(part in text for part in _LOST):
        return ProcessLostError(
            "Another process of this run is gone. The last checkpoint is valid."
        )
    return error


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """Forward stop signals to the processes, which stop after their current update."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGTERM)

    previous = {}
    for number in stop_signals():
        with contextlib.suppress(ValueError):  # not in the main thread
            previous[number] = signal.signal(number, pass_on)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
