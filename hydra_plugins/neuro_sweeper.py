"""Makes `neuro.search` known to Hydra, which looks for plugins nowhere else.

Imported at every start, so nothing heavy happens here.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class NeuroSweeper(Sweeper):
    """Optuna search with a study that survives; the keys are those of `neuro.search.Search`."""

    def __init__(self, **settings: Any) -> None:
        from neuro.search import Search

        self._search = Search(**settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._search.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        return self._search.sweep(arguments)
