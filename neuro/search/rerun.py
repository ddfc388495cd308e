"""What runs a trial again outside of its search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from neuro.config.experiment import plain
from neuro.runs.resume import differences
from neuro.search.space import Space, Values

#: how the files of conf/callbacks name what only a search can have
_PRUNING = "neuro.search.pruning.Pruning"


def rerun_overrides(
    space: Space, values: Values, master: DictConfig, loader: ConfigLoader
) -> list[str]:
    """The overrides that make the config of a trial with `values` from the default one.

    The options that the sweep chose, what the command line fixed of the keys that there are without
    the sweep's file, and whatever else makes a difference; then the values.
    """
    own = [f"{key}={value}" for key, value in values.items()]
    trial = loader.load_sweep_config(master, [*space.fixed.values(), *own])
    name = trial.hydra.job.config_name
    usual = loader.load_configuration(name, [], RunMode.RUN).hydra.runtime.choices
    chosen = {
        group: option
        for group, option in trial.hydra.runtime.choices.items()
        if "/" not in group and group in usual and option not in (None, usual[group])
        if group != "sweep" and group not in values
    }
    overrides = [f"{group}={option}" for group, option in chosen.items()]
    base = loader.load_configuration(name, overrides, RunMode.RUN)
    overrides += [
        text
        for key, text in space.fixed.items()
        if key not in ("sweep", *chosen) and _has(base, key.lstrip("~+"))
    ]
    alone = loader.load_configuration(name, [*overrides, *own], RunMode.RUN)
    wanted = _values_of(trial)
    callbacks = wanted["callbacks"]
    callbacks |= {k: None for k, node in callbacks.items() if node and node["_target_"] == _PRUNING}
    rest = [
        f"++{key}={json.dumps(value)}"
        for path, _, new in differences(_values_of(alone), wanted)
        for key, value in _leaves(path, new)
    ]
    return [*overrides, *rest, *own]


def _has(cfg: DictConfig, path: str) -> bool:
    parent, _, leaf = path.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node


def _values_of(cfg: DictConfig) -> dict[str, Any]:
    """The experiment's part of a composed config as plain values."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # for the resolvers
    try:
        own = cfg.copy()
        with open_dict(own):
            own.pop("hydra")
        return plain(own)
    finally:
        HydraConfig.instance().cfg = before


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}", below)
    else:
        yield path, value
