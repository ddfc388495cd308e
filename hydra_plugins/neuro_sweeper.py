"""Makes `neuro.search` known to Hydra, which looks for plugins nowhere else.

Imported at every start, so nothing heavy happens here.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OwnSamplers(SearchPathPlugin):
    """Gives conf/hydra/sweeper/sampler/ the names that hydra-optuna-sweeper's samplers have.

    Hydra would take those, which are typed, as schemas of our files. They have no default seed and
    lack what Optuna has learned since (group, constant_liar). Without them that sweeper cannot
    work, so `hydra/sweeper=optuna` is no option either. This hook runs when all plugins are loaded
    and nothing is composed yet.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name in ("sampler", "optuna.yaml"):
            ConfigStore.instance().repo["hydra"]["sweeper"].pop(name, None)


class NeuroSweeper(Sweeper):
    """Optuna search with a study that survives; keys are in conf/hydra/sweeper/neuro.yaml."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from neuro.search.sweeper import Search

        self._search = Search(**self._settings)
        self._search.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        return self._search.sweep(arguments)
