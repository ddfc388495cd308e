"""`metrics.jsonl`, written by every run: one JSON object per line.

    {"step": 120, "time": 1767225600.123, "train/loss": 0.41, "train/accuracy": 0.93}

`step` counts optimizer updates over all phases, `time` is wall-clock seconds since 1970. A value
that is not finite is written as `null`, since JSON has no NaN. Lines are flushed one by one, so a
killed process leaves at most one incomplete line, the last. A checkpoint stores the file's length;
a resumed run truncates the file to it. The other trackers restore their history from this file.
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
    """Appends every logged row to `metrics.jsonl`. Every run has one; it needs no config."""

    def __init__(self) -> None:
        self._file: BufferedRandom | None = None

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        """Open the file and truncate it to `run.kept_bytes` (to 0 if the run is not resumed)."""
        run.directory.mkdir(parents=True, exist_ok=True)
        path = run.directory / FILE
        path.touch()
        self._file = path.open("r+b")
        self.truncate(run.kept_bytes if run.resumed else 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        row = {"step": int(step), "time": round(time.time(), 3)}
        row.update({name: _plain(value) for name, value in metrics.items()})
        file = self._opened()
        file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        file.flush()

    def length(self) -> int:
        """Bytes written so far; checkpoints store this number."""
        return self._opened().tell()

    def truncate(self, length: int) -> None:
        """Drop all bytes after the first `length`, and an incomplete line before them."""
        file = self._opened()
        size = file.seek(0, os.SEEK_END)
        if length > size:
            log.warning(
                "%s has %d bytes, but had %d when the checkpoint was written: "
                "some of the history before the resume is lost.",
                file.name,
                size,
                length,
            )
        file.seek(0)
        kept = file.read(min(length, size))
        file.truncate(kept.rfind(b"\n") + 1)  # whole lines only
        file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        """Write all rows to disk, since a checkpoint must not refer to rows that a crash loses.

        FileNotFoundError if the run directory was moved or deleted: the open file would go with it,
        while the checkpoint would be saved in a new directory of the old name.
        """
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.stat(self._file.name)

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

    Lines that are no rows are skipped: a killed run may leave an incomplete one at the end. A
    missing file has no rows.
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
    """The rows up to the checkpoint that a run resumes from; empty for a new run."""
    return list(read_rows(run.directory, run.kept_bytes)) if run.resumed else []


def _plain(value: Any) -> Any:
    """Convert tensors and numpy scalars to Python numbers, and non-finite values to None."""
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number
