"""The contract of a tracker: where a run's numbers, config and files go.

Several trackers work at once behind `Trackers`, which is also the null tracker when it is empty,
so nobody has to ask whether there is one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RunInfo:
    """What a tracker may want to know of the run that it follows."""

    directory: Path
    run_id: str
    name: str
    project: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    job_type: str = "train"
    resumed: bool = False
    #: bytes of metrics.jsonl that a resumed run keeps (its length at the checkpoint); what was
    #: logged after them is dropped, by every tracker
    history: int = 0


class Tracker(ABC):
    """Receives what a run produces. Files and services are opened in `start`, not before."""

    @abstractmethod
    def start(self, run: RunInfo, config: Mapping[str, Any]) -> None:
        """Open the run; `config` is the resolved configuration as plain containers."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record scalars (slash-separated names) at an optimizer step."""

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Record how values are spread; a tracker without histograms does nothing."""

    def log_artifact(self, path: Path, name: str) -> None:
        """Record a finished file, such as a plot or the report."""

    def add_config(self, values: Mapping[str, Any]) -> None:
        """Add to the config what the run found out itself, such as a learning rate."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record the run's final values."""

    def flush(self) -> None:
        """Bring everything to disk; called before a checkpoint is written."""

    def finish(self, status: str) -> None:
        """Close the run with its status: completed, interrupted or failed."""


@dataclass
class Trackers(Tracker):
    """Several trackers as one; none at all is fine."""

    members: Sequence[Tracker] = field(default_factory=tuple)

    def start(self, run: RunInfo, config: Mapping[str, Any]) -> None:
        for tracker in self.members:
            tracker.start(run, config)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for tracker in self.members:
            tracker.log(metrics, step)

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        for tracker in self.members:
            tracker.log_histogram(name, values, step)

    def log_artifact(self, path: Path, name: str) -> None:
        for tracker in self.members:
            tracker.log_artifact(path, name)

    def add_config(self, values: Mapping[str, Any]) -> None:
        for tracker in self.members:
            tracker.add_config(values)

    def summary(self, values: Mapping[str, Any]) -> None:
        for tracker in self.members:
            tracker.summary(values)

    def flush(self) -> None:
        for tracker in self.members:
            tracker.flush()

    def finish(self, status: str) -> None:
        for tracker in self.members:
            tracker.finish(status)
