"""Trials from all over the space, composed and checked before the first one runs.

Both ends of every range occur, every choice and every condition: what every trial would meet, and
most of what some would, is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from neuro.assembly import assemble, check_config
from neuro.continuation import plain
from neuro.errors import ConfigError
from neuro.schema import reported, validations
from neuro.search.objectives import check_objectives, directions_of
from neuro.search.settings import SearchSettings, unknown_key
from neuro.search.space import Space, Values


@dataclass(frozen=True)
class Rehearsal:
    """What the checked trials have in common: objectives, their directions, chosen options."""

    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    choices: dict[str, str]  #: option by config group, as far as it is not the default


def rehearse(
    space: Space, settings: SearchSettings, master: DictConfig, context: HydraContext
) -> Rehearsal:
    """Compose and check trials. ConfigError says what is wrong with one of them."""
    try:
        first, *others = (_compose(space, values, master, context) for values in space.examples())
        choices = _choices(first, context)
        objectives, directions = _check(first, settings)
        for cfg in others:
            _check(cfg, settings)
        return Rehearsal(objectives, directions, choices)
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


def _check(cfg: DictConfig, settings: SearchSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The objectives of a trial that passes all checks, and their directions."""
    HydraConfig.instance().set_config(cfg)  # for the resolvers of the rest
    with open_dict(cfg):
        cfg.pop("hydra")
    config = plain(cfg)
    check_config(config)
    if config["mode"] != "train":
        raise ConfigError(f"mode={config['mode']}: a search trains; use mode=train.")
    parts = assemble(config)
    kinds = validations(parts.callbacks.values())
    objectives = settings.objectives or (parts.settings.objective,)
    check_objectives(objectives, reported(parts.settings, parts.plan, parts.target, kinds))
    return objectives, directions_of(objectives, settings.direction, config, parts.callbacks)


def _choices(cfg: DictConfig, context: HydraContext) -> dict[str, str]:
    """What the sweep chose in the config groups, as far as it is not the default."""
    default = context.config_loader.load_configuration(
        cfg.hydra.job.config_name, overrides=[], run_mode=RunMode.RUN
    )
    usual = default.hydra.runtime.choices
    return {
        group: option
        for group, option in cfg.hydra.runtime.choices.items()
        if "/" not in group and group in usual and option not in (None, usual[group])
        if group != "sweep"
    }
