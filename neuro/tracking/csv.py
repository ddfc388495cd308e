"""`metrics.csv`: one row per step and one column per metric, for spreadsheets and pandas.

Several calls of `log` at one step make one row. A new metric adds a column: the file is then
rewritten and replaced atomically. A cell is empty where the metric was not measured at that step
or its value was not finite. A resumed run rebuilds the file from `metrics.jsonl`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from neuro.io.files import replacing
from neuro.tracking.base import RunInfo, Tracker
from neuro.tracking.jsonl import kept_rows

#: step, time and metrics of one row
Row = dict[str, Any]

#: name of the file inside a run directory
FILE = "metrics.csv"


class CsvTracker(Tracker):
    """Writes `metrics.csv` in the run directory."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: TextIOWrapper | None = None
        self._columns = ["step", "time"]
        self._row: Row = {}  # the current step; later calls may add metrics
        self._pending: list[Row] = []  # rows since a new column; need a rewrite

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        run.directory.mkdir(parents=True, exist_ok=True)
        self._path = run.directory / FILE
        self._columns = ["step", "time"]
        self._row, self._pending = {}, []
        rows = _merged(kept_rows(run))
        for row in rows:
            self._columns += [name for name in row if name not in self._columns]
        self._rewrite(rows)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._row and self._row["step"] != step:
            self._close_row()
        if not self._row:
            self._row = {"step": step, "time": round(time.time(), 3)}
        self._row.update(metrics)

    def flush(self) -> None:
        """Write complete rows; the current step's row is kept back, as it may get more metrics."""
        if self._path is None:
            return
        if self._pending:
            with self._path.open(newline="", encoding="utf-8") as file:
                written: list[Row] = list(csv.DictReader(file))
            self._rewrite(written + self._pending)
            self._pending = []
        if self._file is not None:
            self._file.flush()

    def finish(self, status: str) -> None:
        if self._path is None:
            return
        if self._row:
            self._close_row()
        self.flush()
        if self._file is not None:
            self._file.close()
        self._file = self._path = None

    def _close_row(self) -> None:
        row, self._row = self._row, {}
        new = [name for name in row if name not in self._columns]
        self._columns += new
        if new or self._pending:  # keep the order of rows until the file is rewritten
            self._pending.append(row)
        elif self._file is not None:
            self._writer(self._file).writerow(_cells(row))

    def _rewrite(self, rows: list[Row]) -> None:
        """Replace the file by a header with all columns and `rows`, and reopen it for appending."""
        assert self._path is not None, "the tracker was not started"
        if self._file is not None:
            self._file.close()
        with (
            replacing(self._path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(map(_cells, rows))
        self._file = self._path.open("a", newline="", encoding="utf-8", buffering=1)

    def _writer(self, file: TextIOWrapper) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")


def _merged(rows: list[Row]) -> list[Row]:
    """Merge rows of the same step; the time is that of the step's first row."""
    steps: dict[int, Row] = {}
    for row in rows:
        first = steps.setdefault(row["step"], row)
        first.update({name: value for name, value in row.items() if name != "time"})
    return list(steps.values())


def _cells(row: Mapping[str, object]) -> Row:
    """Python numbers for csv.DictWriter; empty strings for null and non-finite values."""
    cells = {}
    for name, value in row.items():
        number = value.item() if hasattr(value, "item") else value
        finite = not isinstance(number, float) or abs(number) < float("inf")
        cells[name] = number if finite and number is not None else ""
    return cells
