"""Hydra's launchers for the trials of a sweep."""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from neuro.errors import BackendUnavailable, ConfigError


def check_launcher(master: DictConfig, n_jobs: int) -> None:
    """ConfigError if the launcher of a sweep's config cannot run `n_jobs` trials at once."""
    if n_jobs > 1 and master.hydra.launcher._target_.endswith("BasicLauncher"):
        raise ConfigError(
            f"hydra.sweeper.n_jobs: got {n_jobs}, but Hydra's default launcher runs one trial at a "
            "time. Choose hydra/launcher=joblib, ray or submitit_slurm."
        )


def make_launcher(master: DictConfig, context: HydraContext, task: TaskFunction) -> Launcher:
    """The launcher of a sweep's config. BackendUnavailable if its package is not installed."""
    try:
        return Plugins.instance().instantiate_launcher(
            config=master, hydra_context=context, task_function=task
        )
    except HydraException as error:
        choice = master.hydra.runtime.choices["hydra/launcher"]
        raise BackendUnavailable(
            f"hydra/launcher={choice}: cannot be created ({str(error).splitlines()[0]}). If "
            "its package is missing: pip install 'neuro[ray]'."
        ) from error
