"""What a run finds out about itself while it trains, added to its description.

    run_meta.json: {..., "status": "running", "found_lr": {"task1": 0.0031}}

The description is written when a run begins and when it ends; what is found in between stands in
it at once, also in a run that is killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuro.io.files import write_json
from neuro.tracking.base import RunInfo, Tracker

#: name of the file inside a run directory
FILE = "run_meta.json"


class MetaTracker(Tracker):
    """Keeps `run_meta.json` complete; part of every run, without configuration."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def start(self, run: RunInfo, config: Mapping[str, Any]) -> None:
        self._path = run.directory / FILE

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers have their place elsewhere."""

    def add_config(self, values: Mapping[str, Any]) -> None:
        assert self._path is not None, "the tracker was not started"
        described = json.loads(self._path.read_text(encoding="utf-8"))
        write_json(self._path, {**described, **values})
