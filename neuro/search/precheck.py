"""Composes and checks the configs of trials before the first trial runs.

The checked configs contain both ends of every range, every choice and every condition. Errors that
all trials have, and most of those that some have, are therefore reported at once.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from neuro.errors import ConfigError
from neuro.experiment.assembly import assemble
from neuro.experiment.experiment import parse_experiment
from neuro.search.constraints import parse_constraints
from neuro.search.objectives import Objectives, check_metrics, directions_of
from neuro.search.pruning import Pruning
from neuro.search.settings import SweepSettings, composition_error
from neuro.search.space import Space, Values


def check_trials(
    space: Space, settings: SweepSettings, master: DictConfig, context: HydraContext
) -> Objectives:
    """Compose and check trials that cover the space; returns the study's objectives.

    ConfigError for the first trial whose config cannot be composed or is invalid.
    """
    try:
        first, *_ = [
            _check(_compose(space, values, master, context), settings)
            for values in space.covering_values()
        ]
        return first
    finally:
        HydraConfig.instance().set_config(master)


def _compose(space: Space, values: Values, master: DictConfig, context: HydraContext) -> DictConfig:
    """The config of a trial with its node `hydra`, as Hydra composes it for a job."""
    overrides = [*space.fixed.values(), *(f"{name}={value}" for name, value in values.items())]
    try:
        cfg = context.config_loader.load_sweep_config(master, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise composition_error(error, master, [*values, *space.fixed]) from error
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = 0
    return cfg


def _check(cfg: DictConfig, settings: SweepSettings) -> Objectives:
    """Check a trial as a training run checks itself; returns its objectives."""
    HydraConfig.instance().set_config(cfg)  # resolvers of the other nodes read it
    with open_dict(cfg):
        cfg.pop("hydra")
    experiment = parse_experiment(cfg)
    if experiment.mode != "train":
        raise ConfigError(f"mode={experiment.mode}: trials of a study train; use mode=train.")
    parts = assemble(experiment)
    objectives = settings.objectives or (parts.settings.objective,)
    check_metrics(objectives, parts.reported, "hydra.sweeper.objectives")
    constrained = [found.metric for found in parse_constraints(settings.constraints)]
    check_metrics(constrained, parts.reported, "hydra.sweeper.constraints")
    for name, callback in parts.callbacks.items():
        if isinstance(callback, Pruning):
            problem = callback.problem(f"callbacks.{name}", experiment.repeats)
            if problem is not None:
                raise ConfigError(problem)
    directions = directions_of(objectives, settings.direction, parts.settings, parts.callbacks)
    return Objectives(objectives, directions)
