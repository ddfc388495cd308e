"""Adds values that a run computes while it trains to its `run_meta.json`.

    run_meta.json: {..., "status": "running", "found_lr": {"task1": 0.0031}}

The rest of the file is written at the start and at the end of a run. These values are written at
once, so that they are there even if the run is killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from neuro.io.files import write_json
from neuro.tracking.base import RunInfo, Tracker

#: name of the file inside a run directory
FILE = "run_meta.json"


class MetaTracker(Tracker):
    """Records `add_config` in `run_meta.json`. Every run has one; it needs no config."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        self._path = run.directory / FILE

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing: metrics.jsonl holds the metrics."""

    def add_config(self, values: Mapping[str, object]) -> None:
        assert self._path is not None, "the tracker was not started"
        meta = json.loads(self._path.read_text(encoding="utf-8"))
        write_json(self._path, {**meta, **values})
