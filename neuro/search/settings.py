"""The keys of `hydra.sweeper`, checked, and what to say of a parameter that no trial has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict

from neuro.config.values import parse_values
from neuro.errors import ConfigError, nearest

Way = Literal["maximize", "minimize"]
Count = Annotated[int, Gt(0)]


class SearchSettings(BaseModel):
    """The keys of conf/hydra/sweeper/neuro.yaml beside the sampler."""

    model_config = ConfigDict(extra="forbid", strict=True)

    direction: Way | Annotated[tuple[Way, ...], MinLen(1)] | None
    objectives: Annotated[tuple[str, ...], MinLen(1)] | None
    storage: str | None
    study_name: Annotated[str, MinLen(1)] | None
    n_trials: Count
    n_jobs: Count
    max_failure_rate: Annotated[float, Ge(0), Le(1)]
    accept_code: bool
    params: dict[str, Any] | None
    conditional: tuple[dict[str, Any], ...] | None


def check_settings(settings: Mapping[str, Any]) -> SearchSettings:
    """The settings of a config node. ConfigError lists what is wrong with them."""
    values = {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
    return parse_values(values, SearchSettings, "hydra.sweeper")


def unknown_key(error: Exception, master: DictConfig, names: Iterable[str]) -> ConfigError:
    """That a trial cannot be composed: which parameter does not exist, or what Hydra says."""
    known = [*_keys(master), *master.hydra.runtime.choices]
    for name in names:
        key = name.lstrip("+~").partition("@")[0]
        if key not in known and not name.startswith(("+", "~")):
            return ConfigError(
                f"hydra.sweeper.params.{name}: a trial has no such key.{nearest(key, known)} "
                "python launch.py --cfg job shows them all."
            )
    message = next(line.strip() for line in str(error).splitlines() if line.strip())
    return ConfigError(f"hydra.sweeper.params: a trial cannot be composed. {message}")


def _keys(node: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of a config, without Hydra's own."""
    if not isinstance(node, DictConfig):
        return
    for key in map(str, node):
        if path or key != "hydra":
            below = f"{path}.{key}" if path else str(key)
            yield below
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _keys(node[key], below)
