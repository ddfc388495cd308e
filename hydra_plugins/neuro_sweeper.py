"""Registers `neuro.search` with Hydra, which finds plugins only in the package `hydra_plugins`.

Hydra imports this file at every start, so it must not import Optuna or torch.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RemoveForeignSamplers(SearchPathPlugin):
    """Removes the sampler configs of hydra-optuna-sweeper, whose names ours reuse.

    Hydra would use those, which are typed, as schemas of the files in conf/hydra/sweeper/sampler/.
    They have no default seed and lack newer arguments of Optuna (group, constant_liar). Their
    sweeper does not work without them, so that `hydra/sweeper=optuna` is removed too.

    A search path plugin, because Hydra calls it after loading all plugins and before composing.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name in ("sampler", "optuna.yaml"):
            ConfigStore.instance().repo["hydra"]["sweeper"].pop(name, None)


class NeuroSweeper(Sweeper):
    """Runs trials of a stored Optuna study; keys are in conf/hydra/sweeper/neuro.yaml."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from neuro.search.sweeper import Sweep

        self._sweep = Sweep(**self._settings)
        self._sweep.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        self._sweep.run(arguments)
