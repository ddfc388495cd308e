"""Signals that end a program: as stop requests that the training loop polls, or as exceptions."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


def stop_signals() -> list[signal.Signals]:
    """Signals that stop a run after its current update.

    SIGHUP, sent when a terminal is closed, is included unless it is ignored, as under nohup.
    """
    found = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found


@contextmanager
def sigterm_as_interrupt(message: str) -> Iterator[None]:
    """Raise KeyboardInterrupt with a message on SIGTERM, as on Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(message)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def noting_signals(quiet: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after a stop signal was received inside the block.

    A second Ctrl-C raises KeyboardInterrupt. quiet: print no message.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if not quiet:  # print is not reentrant: the signal may interrupt another print
            with suppress(OSError):  # the terminal may be closed
                os.write(2, b"\nStopping after this update. Ctrl-C again stops at once.\n")

    previous = {}
    for number in stop_signals():
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread: the launcher handles signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
