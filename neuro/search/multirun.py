"""A Hydra callback that compares the runs of a sweep (`launch.py -m`) at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from neuro.errors import CheckpointError, ConfigError


class CompareRuns(Callback):
    """Prints the comparison of all runs of a sweep after the last one has ended."""

    def __init__(self, baseline: str | None = None) -> None:
        """`baseline`: the configuration to test the others against, see docs/compare.md."""
        self.baseline = baseline

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from neuro.analysis.compare.cli import show_comparison

        directory = Path(config.hydra.sweep.dir)
        try:
            show_comparison([directory], baseline=self.baseline)
        except (CheckpointError, ConfigError) as error:  # no run finished, or mode=check
            print(error)
        else:
            print(f"runs: {directory}")
