"""What happens around the jobs of a multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from neuro.errors import CheckpointError, ConfigError


class CompareRuns(Callback):
    """Prints the comparison of a multirun's runs when the last one is done."""

    def __init__(self, baseline: str | None = None) -> None:
        """`baseline`: what the others are tested against, as in `neuro compare --baseline`."""
        self.baseline = baseline

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from neuro.analysis.compare.cli import show_comparison

        directory = Path(config.hydra.sweep.dir)
        try:
            show_comparison([directory], baseline=self.baseline)
        except (CheckpointError, ConfigError) as error:  # mode=check, or nothing finished
            print(error)
        else:
            print(f"runs: {directory}")
