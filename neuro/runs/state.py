"""run_state.json: what a run is doing right now.

The file is replaced atomically at log intervals, so that a reader always finds a complete one. Its
status is that of run_meta.json; a directory without run_meta.json is no run directory. A run that
was killed leaves its last state; `RunRecord.status` checks that a process holds the run's lock.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuro.errors import CheckpointError
from neuro.io.files import read_json, write_json
from neuro.runs.metadata import now

FILE = "run_state.json"


@dataclass(frozen=True)
class TrainingState:
    """Where training is.

    - `phase`, `phase_number`, `phases`: name of the current phase, its number from 1, and how many
    - `step`: updates since the start; `phase_step` and `phase_steps`: those of the phase
    - `samples`, `tokens`: trained on so far, tokens only where inputs are integers
    - `loss`, `lr`: those of the last log interval
    - `monitor`, `best`: the monitored metric and its best value in the phase
    - `samples_per_s`, `tokens_per_s`: mean over the phase
    - `eta_s`: seconds to the end of all phases
    - `checkpoint`: the last one, relative to the run directory
    """

    phase: str
    phase_number: int
    phases: int
    step: int
    phase_step: int
    phase_steps: int
    samples: int
    tokens: int | None
    loss: float | None
    lr: float
    monitor: str
    best: float | None
    samples_per_s: float | None
    tokens_per_s: float | None
    eta_s: float | None
    checkpoint: str | None


def write_state(directory: Path, status: str, training: TrainingState | None = None) -> None:
    """Replace the state of a run; without `training`, that of the file is kept."""
    described: dict[str, Any] = {}
    if training is not None:
        described = asdict(training)
    elif (directory / FILE).is_file():
        described = read_state(directory)
    process = {"host": platform.node(), "pid": os.getpid()}
    write_json(
        directory / FILE,
        {**described, "status": status, "updated": now(), "process": process},
    )


def read_state(directory: Path) -> dict[str, Any]:
    """The state of a run; empty if it has none, or none that can be read."""
    try:
        return read_json(directory / FILE)
    except CheckpointError:
        return {}
