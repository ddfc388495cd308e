"""SIGTERM and Ctrl-C as a stop request that the training loop polls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noting_signals(quiet: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after SIGTERM or Ctrl-C was received inside the block.

    A second Ctrl-C raises KeyboardInterrupt. quiet: print no message.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if not quiet:  # print is not reentrant: the signal may interrupt another print
            os.write(2, b"\nStopping after this update. Ctrl-C again stops at once.\n")

    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread: the launcher handles signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
