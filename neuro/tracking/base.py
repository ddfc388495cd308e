"""The tracker interface: records a run's metrics, config and files.

`Trackers` forwards every call to several trackers. With an empty list it is the null tracker, so
callers need no `if tracker is not None`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from neuro.config.experiment import RunSettings


@dataclass(frozen=True)
class RunInfo:
    """The run that a tracker records."""

    directory: Path
    run_id: str
    name: str
    project: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    job_type: str = "train"
    resumed: bool = False
    #: length of metrics.jsonl at the checkpoint that the run resumes from, in bytes; every tracker
    #: drops what was logged after it, because the resumed run logs those steps again
    kept_bytes: int = 0


#: which files of the model a service gets from a completed run
LogModel = Literal[False, "best", "all"]


def model_files(directory: Path, which: LogModel) -> list[Path]:
    """Files of the model in a completed run's directory.

    - `best`: model.safetensors and the best checkpoint (the last one where there is no best)
    - `all`: model.safetensors and every checkpoint
    """
    checkpoints = sorted((directory / "checkpoints").glob("*.safetensors"))
    found = {path.stem: path for path in checkpoints if not path.name.startswith("previous-")}
    if which == "best":
        name = "best" if "best" in found else "last"
        found = {name: found[name]} if name in found else {}
    model = directory / "model.safetensors"
    return [*([model] if model.is_file() else []), *found.values()] if which else []


class Tracker(ABC):
    """Records what a run produces. Opens files and connections in `start`, not in `__init__`."""

    def problems(self, settings: RunSettings) -> Iterable[str]:
        """What the service will refuse of a run's names and tags; asked before training."""
        return ()

    @abstractmethod
    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        """Open the run; `config` is the resolved configuration as plain containers."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record scalars under slash-separated names.

        - `step`: optimizer updates since the start of the run, over all phases
        """

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Record the distribution of `values` [N]; does nothing unless overridden."""

    def log_artifact(self, path: Path, name: str, step: int) -> None:
        """Record a finished file of update `step`, such as a plot, under a slash-separated name."""

    def add_config(self, values: Mapping[str, object]) -> None:
        """Add values to the config that the run computed itself, such as a learning rate."""

    def summary(self, values: Mapping[str, object]) -> None:
        """Record the run's final values."""

    def flush(self) -> None:
        """Write everything to disk; called before a checkpoint is saved."""

    def finish(self, status: str) -> None:
        """Close the run with its status: completed, interrupted or failed."""


@dataclass
class Trackers(Tracker):
    """A composite of any number of trackers, called in order."""

    trackers: Sequence[Tracker] = ()

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        for tracker in self.trackers:
            tracker.start(run, config)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        for tracker in self.trackers:
            tracker.log_histogram(name, values, step)

    def log_artifact(self, path: Path, name: str, step: int) -> None:
        for tracker in self.trackers:
            tracker.log_artifact(path, name, step)

    def add_config(self, values: Mapping[str, object]) -> None:
        for tracker in self.trackers:
            tracker.add_config(values)

    def summary(self, values: Mapping[str, object]) -> None:
        for tracker in self.trackers:
            tracker.summary(values)

    def flush(self) -> None:
        for tracker in self.trackers:
            tracker.flush()

    def finish(self, status: str) -> None:
        """Close every tracker, also if one of them cannot write its last rows to a full disk."""
        errors: list[OSError] = []
        for tracker in self.trackers:
            try:
                tracker.finish(status)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]
