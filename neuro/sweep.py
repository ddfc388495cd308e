"""What happens around the jobs of a multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from neuro.errors import CheckpointError


class CompareRuns(Callback):
    """Prints the comparison of a multirun's runs when the last one is done."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from neuro.analysis.cli import show_comparison

        directory = Path(config.hydra.sweep.dir)
        try:
            show_comparison([directory])
        except CheckpointError as error:  # mode=check, or nothing finished
            print(error)
        else:
            print(f"runs: {directory}")
