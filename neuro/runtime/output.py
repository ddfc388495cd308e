"""Standard output that outlives its reader, takes any character, and is kept in run.log.

A run goes on when its output cannot be shown any more: the reader of a pipe has ended (`| head`),
the terminal is closed, or the disk of a redirected output is full.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any

_log = logging.getLogger("neuro.output")

#: attribute of log records whose text is on standard output already
_PRINTED = "printed"


class _LastingFile(io.FileIO):
    """A file descriptor that becomes the null device when it cannot be written any more.

    The descriptor itself is replaced, so that child processes and libraries can write to it too.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:  # EPIPE, EIO of a closed terminal, ENOSPC, ...
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def make_output_lasting() -> None:
    """Let standard output and error survive a closed pipe or terminal, and replace characters that
    their encoding lacks by `?`. Streams that a test or a notebook has put in their place stay.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as in `>&-`; keep its number from other files
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            lasting = io.TextIOWrapper(
                io.BufferedWriter(_LastingFile(number, "w", closefd=False)),
                encoding=stream.encoding,
                errors="replace" if name == "stdout" else "backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)


def record_printed(text: str) -> None:
    """Write text that was printed on standard output to run.log."""
    for line in text.splitlines():
        if line.strip():
            _log.info(line.rstrip(), extra={_PRINTED: True})


class NotPrinted(logging.Filter):
    """Drops records of text that is on standard output already; for the terminal's handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, _PRINTED, False)
