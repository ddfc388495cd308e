"""Robust standard output: no errors for closed readers or characters, and a copy in run.log.

A run continues when its output can no longer be written: the reader of a pipe has ended (`| head`),
the terminal is closed, or the disk of a redirected output is full.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_log = logging.getLogger("neuro.output")

#: attribute of log records whose text was printed on standard output before
_PRINTED = "printed"


class _RobustFile(io.FileIO):
    """A file descriptor that becomes the null device when it can no longer be written.

    The descriptor itself is replaced, so that child processes and libraries can write to it too.
    """

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:  # EPIPE, EIO of a closed terminal, ENOSPC, ...
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def make_output_robust() -> None:
    """Ignore write errors of standard output and error, and replace characters that their encoding
    lacks by `?`. Streams that a test or a notebook has installed instead are left alone.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`; occupy its number, else the next file gets it
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            robust = io.TextIOWrapper(
                io.BufferedWriter(_RobustFile(number, "w", closefd=False)),
                encoding=stream.encoding,
                errors="replace" if name == "stdout" else "backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, robust)


@contextmanager
def captured_errors() -> Iterator[list[str]]:
    """Collect the lines that this process, its C libraries included, prints on standard error.

    The list is filled at the end of the block, also after an error. For short calls of libraries
    that print without a way to turn it off: lines of other threads are taken as well.
    """
    lines: list[str] = []
    try:
        kept = os.dup(2)
    except OSError:  # closed: there is nothing to see
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            printed = file.read().decode(errors="replace").splitlines()
            lines.extend(line.strip() for line in printed if line.strip())


def clock_time(seconds: float) -> str:
    """A duration as `2:03` minutes or `1:02:03` hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def record_printed(text: str) -> None:
    """Write text that was printed on standard output to run.log."""
    for line in text.splitlines():
        if line.strip():
            _log.info(line.rstrip(), extra={_PRINTED: True})


class NotPrinted(logging.Filter):
    """Drops records of text that was printed already; for the handler of the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, _PRINTED, False)
