"""The command that repeats a trial as a single run."""

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

#: class path of the callback that single runs cannot have
_PRUNING = "neuro.search.pruning.Pruning"


def rerun_overrides(
    space: Space, values: Values, master: DictConfig, loader: ConfigLoader
) -> list[str]:
    """The overrides with which a single run has the config of a trial with these values.

    In this order: config group options that differ from the defaults; overrides of the sweep's
    command line whose keys exist without the sweep's config file; all remaining differences; the
    trial's values.
    """
    params = [f"{key}={value}" for key, value in values.items()]
    trial = loader.load_sweep_config(master, [*space.fixed.values(), *params])
    name = trial.hydra.job.config_name
    defaults = loader.load_configuration(name, [], RunMode.RUN).hydra.runtime.choices
    chosen = {
        group: option
        for group, option in trial.hydra.runtime.choices.items()
        if "/" not in group and group in defaults and option not in (None, defaults[group])
        if group != "sweep" and group not in values
    }
    overrides = [f"{group}={option}" for group, option in chosen.items()]
    base = loader.load_configuration(name, overrides, RunMode.RUN)
    overrides += [
        text
        for key, text in space.fixed.items()
        if key not in ("sweep", *chosen) and _has(base, key.lstrip("~+"))
    ]
    single = loader.load_configuration(name, [*overrides, *params], RunMode.RUN)
    target = _values_of(trial)
    callbacks = target["callbacks"]
    callbacks |= {k: None for k, node in callbacks.items() if node and node["_target_"] == _PRUNING}
    remaining = [
        f"++{key}={json.dumps(value)}"
        for path, _, new in differences(_values_of(single), target)
        for key, value in _leaves(path, new)
    ]
    return [*overrides, *remaining, *params]


def _has(cfg: DictConfig, path: str) -> bool:
    """Whether a config has a key, even if its value is missing or null."""
    parent, _, leaf = path.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node


def _values_of(cfg: DictConfig) -> dict[str, Any]:
    """A composed config without the node `hydra`, as plain values."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # resolvers read it
    try:
        own = cfg.copy()
        with open_dict(own):
            own.pop("hydra")
        return plain(own)
    finally:
        HydraConfig.instance().cfg = before


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{path}.{key}", below)
    else:
        yield path, value
