"""Registers our sweepers with Hydra, which finds plugins only in the package `hydra_plugins`.

Hydra imports this file at every start, so it must not import Optuna or torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from neuro.errors import BackendUnavailable, ConfigError, nearest


class ReplaceSweepers(SearchPathPlugin):
    """Replaces sweepers of Hydra and its plugins whose names ours take.

    `basic`, which runs without an option of `hydra/sweeper`, checks all jobs before the first.

    The sampler configs of hydra-optuna-sweeper are removed, because ours have the same names.
    Hydra would use those, which are typed, as schemas of the files in conf/hydra/sweeper/sampler/.
    They have no default seed and lack newer arguments of Optuna (group, constant_liar). The
    package's `hydra/sweeper=optuna` needs them, and is available as `hydra_optuna`.

    A search path plugin, because Hydra calls it after loading all plugins and before composing.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name in ("sampler", "optuna.yaml"):
            ConfigStore.instance().repo["hydra"]["sweeper"].pop(name, None)
        basic = BasicSweeperConf(_target_=f"{__name__}.{CheckedSweeper.__name__}")
        ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=basic)


class JobSweeper(Sweeper, ABC):
    """Runs a list of jobs, all of which are checked before the first one starts.

    Jobs whose directories have runs already resume them: the same command completes a sweep.
    """

    params: Mapping[str, str]  #: swept values of a file, as overrides
    at_once: int | None = None  #: jobs that the launcher gets together; None: all

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @abstractmethod
    def jobs(self, combinations: list[list[str]]) -> list[list[str]]:
        """The overrides of each job, from those of every combination of the swept values."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs. ConfigError for the first job whose config is invalid."""
        from neuro.search.multirun import run_jobs

        assert self.hydra_context is not None and self.config is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        params = [f"{key}={value}" for key, value in self.params.items()]
        swept = parser.parse_overrides([*params, *arguments])
        (combinations,) = BasicSweeper.split_arguments(swept, max_batch_size=None)
        return run_jobs(
            self.jobs(combinations), self.launcher, self.config, self.hydra_context, self.at_once
        )


class CheckedSweeper(JobSweeper):
    """Runs every combination of swept values, as Hydra's basic sweeper, whose keys it has."""

    def __init__(self, max_batch_size: int | None, params: Mapping[str, str] | None) -> None:
        self.at_once = max_batch_size
        self.params = dict(params or {})

    def jobs(self, combinations: list[list[str]]) -> list[list[str]]:
        return combinations


class NeuroSweeper(Sweeper):
    """Runs trials of a stored Optuna study; keys are in conf/hydra/sweeper/neuro.yaml."""

    def __init__(self, **settings: object) -> None:
        self._settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        try:
            from neuro.search.sweeper import Sweep
        except ModuleNotFoundError as error:
            if error.name not in ("optuna", "sqlalchemy"):
                raise
            raise BackendUnavailable(
                f"hydra.sweeper: a search needs {error.name}: pip install 'optuna>=5,<6'."
            ) from error

        self._sweep = Sweep(**self._settings)
        self._sweep.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        self._sweep.run(arguments)


class OptunaSweeper(NeuroSweeper):
    """`NeuroSweeper` for configs of hydra-optuna-sweeper; see conf/hydra/sweeper/optuna.yaml."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's `Sweeper.setup`. ConfigError for keys that are not read."""
        for key, instead in (
            ("search_space", "hydra.sweeper.params: {key: 'interval(0.1,0.9)'}"),
            ("custom_search_space", "hydra.sweeper.conditional"),
        ):
            if self._settings.pop(key) is not None:
                raise ConfigError(
                    f"hydra.sweeper.{key}: is not read. Use {instead}, or "
                    "hydra/sweeper=hydra_optuna, the sweeper of the package itself."
                )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)


class VariantSweeper(JobSweeper):
    """Runs named variants (lists of overrides), each with every combination of swept values.

    The keys are in conf/hydra/sweeper/variants.yaml. A run's `name` is that of its variant, which
    labels it in the sweep's table. Overrides of the command line come last and take precedence.
    """

    def __init__(
        self,
        variants: Mapping[str, Sequence[str]],
        only: Sequence[str] | None,
        params: Mapping[str, str] | None,
    ) -> None:
        self._variants = variants
        self._only = only
        self.params = dict(params or {})

    def jobs(self, combinations: list[list[str]]) -> list[list[str]]:
        """ConfigError for an unknown variant."""
        names = list(self._only or self._variants)
        for name in names:
            if name not in self._variants:
                raise ConfigError(
                    f"hydra.sweeper.only: there is no variant '{name}'. Variants: "
                    f"{', '.join(self._variants)}.{nearest(name, self._variants)}"
                )
        return [
            [f"name={name}", *self._variants[name], *combination]
            for name in names
            for combination in combinations
        ]
