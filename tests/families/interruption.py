"""A callback that kills its process, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from neuro.training.callbacks.base import Callback


class KillOnce(Callback):
    """SIGKILL after update `step`, unless the file named by KILL_MARKER exists."""

    def __init__(self, step: Annotated[int, Gt(0)]):
        self.step = step

    def on_step(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        marker = Path(os.environ.get("KILL_MARKER", os.devnull))
        if trainer.progress.step == self.step and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
