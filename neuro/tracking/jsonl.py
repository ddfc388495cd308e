"""The run's own record of its numbers: `metrics.jsonl`, one JSON object per line.

    {"step": 120, "time": 1767225600.123, "train/loss": 0.41, "train/accuracy": 0.93}

`step` counts optimizer updates over all phases, `time` is wall-clock seconds since 1970. A value
that is not finite is written as `null`, since JSON has no NaN. Lines are appended as they come, so
that a killed process leaves whole lines and at most one torn one at the end. A checkpoint stores
the file's length; a resumed run cuts the file back to it, and the other trackers follow.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from io import BufferedRandom
from pathlib import Path
from typing import Any

from neuro.tracking.base import RunInfo, Tracker

#: name of the file inside a run directory
FILE = "metrics.jsonl"

log = logging.getLogger(__name__)


class JsonlTracker(Tracker):
    """Appends every logged row to `metrics.jsonl`; part of every run, without configuration."""

    def __init__(self) -> None:
        self._file: BufferedRandom | None = None

    def start(self, run: RunInfo, config: Mapping[str, Any]) -> None:
        """Open the file and cut it to `run.history` bytes (0 for a run that is not resumed)."""
        run.directory.mkdir(parents=True, exist_ok=True)
        path = run.directory / FILE
        path.touch()
        self._file = path.open("r+b")
        self.truncate(run.history if run.resumed else 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        row = {"step": int(step), "time": round(time.time(), 3)}
        row.update({name: _plain(value) for name, value in metrics.items()})
        file = self._opened()
        file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        file.flush()

    def length(self) -> int:
        """Bytes written so far, which is what a checkpoint remembers."""
        return self._opened().tell()

    def truncate(self, length: int) -> None:
        """Drop what was logged after the first `length` bytes."""
        file = self._opened()
        size = file.seek(0, os.SEEK_END)
        if length > size:
            log.warning(
                "%s has %d bytes, but the checkpoint was written when it had %d: "
                "some of the history before the resume is lost.", file.name, size, length,
            )  # fmt: skip
        file.seek(0)
        kept = file.read(min(length, size))
        file.truncate(kept.rfind(b"\n") + 1)  # never keep half a line
        file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        """Bring all rows to disk, so that a checkpoint may count on them."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self, status: str) -> None:
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None

    def _opened(self) -> BufferedRandom:
        assert self._file is not None, "the tracker was not started"
        return self._file


def read_rows(directory: Path, length: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, or of its first `length` bytes.

    A torn last line, which a killed run may leave, is passed over; so is a missing file.
    """
    path = directory / FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        content = file.read() if length is None else file.read(length)
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def kept_rows(run: RunInfo) -> list[dict[str, Any]]:
    """What a resumed run keeps of its history; nothing for a new run."""
    return list(read_rows(run.directory, run.history)) if run.resumed else []


def _plain(value: Any) -> Any:
    """A number that JSON can hold; tensors and numpy scalars become Python's."""
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number
