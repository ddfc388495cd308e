"""Trials from all over the space, composed and checked before the first one runs.

Both ends of every range occur, every choice and every condition: what every trial would meet, and
most of what some would, is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from neuro.errors import ConfigError
from neuro.experiment.assembly import assemble
from neuro.experiment.experiment import parse_experiment
from neuro.experiment.rules import reported, validations
from neuro.search.objectives import check_objectives, directions_of
from neuro.search.pruning import Pruning
from neuro.search.settings import SearchSettings, unknown_key
from neuro.search.space import Space, Values


@dataclass(frozen=True)
class Rehearsal:
    """What the trials are judged by."""

    objectives: tuple[str, ...]
    directions: tuple[str, ...]


def rehearse(
    space: Space, settings: SearchSettings, master: DictConfig, context: HydraContext
) -> Rehearsal:
    """Compose and check trials. ConfigError says what is wrong with one of them."""
    try:
        first, *_ = [
            _check(_compose(space, values, master, context), settings)
            for values in space.examples()
        ]
        return first
    finally:
        HydraConfig.instance().set_config(master)


def _compose(space: Space, values: Values, master: DictConfig, context: HydraContext) -> DictConfig:
    """The config of a trial, Hydra's own part included, as if its job had begun."""
    overrides = [*space.fixed.values(), *(f"{name}={value}" for name, value in values.items())]
    try:
        cfg = context.config_loader.load_sweep_config(master, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise unknown_key(error, master, [*values, *space.fixed]) from error
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = 0
    return cfg


def _check(cfg: DictConfig, settings: SearchSettings) -> Rehearsal:
    """What a trial that passes all checks is judged by."""
    HydraConfig.instance().set_config(cfg)  # for the resolvers of the rest
    with open_dict(cfg):
        cfg.pop("hydra")
    experiment = parse_experiment(cfg)
    if experiment.mode != "train":
        raise ConfigError(f"mode={experiment.mode}: a search trains; use mode=train.")
    parts = assemble(experiment)
    kinds = validations(parts.callbacks.values())
    objectives = settings.objectives or (parts.settings.objective,)
    check_objectives(objectives, reported(parts.settings, parts.plan, parts.target, kinds))
    if experiment.repeats > 1 and any(isinstance(c, Pruning) for c in parts.callbacks.values()):
        raise ConfigError(
            f"repeats: got {experiment.repeats}; pruning cannot judge a trial of several repeats "
            "by its first. Use repeats=1, or leave the callback out: '~callbacks.pruning'."
        )
    directions = directions_of(objectives, settings.direction, parts.settings, parts.callbacks)
    return Rehearsal(objectives, directions)
