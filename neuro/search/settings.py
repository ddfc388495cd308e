"""The keys of `hydra.sweeper`, and the error for parameters that do not exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict

from neuro.config.types import Count
from neuro.config.values import parse_values
from neuro.errors import ConfigError, nearest

#: Optuna's names of directions
StudyDirection = Literal["maximize", "minimize"]


class SweepSettings(BaseModel):
    """The keys of conf/hydra/sweeper/neuro.yaml (documented there) except for the sampler."""

    model_config = ConfigDict(extra="forbid", strict=True)

    direction: StudyDirection | Annotated[tuple[StudyDirection, ...], MinLen(1)] | None
    objectives: Annotated[tuple[str, ...], MinLen(1)] | None
    storage: str | None
    study_name: Annotated[str, MinLen(1)] | None
    n_trials: Count
    n_jobs: Count
    max_failure_rate: Annotated[float, Ge(0), Le(1)]
    accept_code: bool
    params: dict[str, Any] | None
    conditional: tuple[dict[str, Any], ...] | None
    enqueue: tuple[dict[str, Any], ...]
    constraints: tuple[str, ...]


def parse_settings(settings: Mapping[str, object]) -> SweepSettings:
    """Check the values of `hydra.sweeper`. ConfigError lists all problems."""
    values = {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
    return parse_values(values, SweepSettings, "hydra.sweeper")


def composition_error(error: Exception, master: DictConfig, names: Iterable[str]) -> ConfigError:
    """The ConfigError for a trial whose config cannot be composed.

    - `error`: Hydra's error
    - `master`: the composed config of the sweep
    - `names`: the trial's parameters and overridden keys, of which one may not exist
    """
    known = [*_keys(master), *master.hydra.runtime.choices]
    for name in names:
        key = name.lstrip("+~").partition("@")[0]
        if key not in known and not name.startswith(("+", "~")):
            return ConfigError(
                f"hydra.sweeper.params.{name}: the config has no such key.{nearest(key, known)} "
                "python launch.py --cfg job shows all keys."
            )
    message = next(line.strip() for line in str(error).splitlines() if line.strip())
    return ConfigError(f"hydra.sweeper.params: the config of a trial cannot be composed. {message}")


def _keys(node: object, parent: str = "") -> Iterator[str]:
    """The dotted paths of all keys below a config node, except for Hydra's own."""
    if not isinstance(node, DictConfig):
        return
    for key in map(str, node):
        if parent or key != "hydra":
            path = f"{parent}.{key}" if parent else key
            yield path
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _keys(node[key], path)
