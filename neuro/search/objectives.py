"""The objectives of a study: metrics of the trials' reports, and their directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from neuro.analysis.metrics import direction_of
from neuro.config.trainer import TrainerSettings
from neuro.errors import ConfigError, nearest
from neuro.search.pruning import Pruning
from neuro.search.settings import StudyDirection
from neuro.training.callbacks.base import Callback

_DIRECTIONS: Mapping[str, StudyDirection] = {"max": "maximize", "min": "minimize"}


class Objectives(NamedTuple):
    """Names of metrics, and for each of them maximize or minimize."""

    names: tuple[str, ...]
    directions: tuple[StudyDirection, ...]


def check_metrics(names: Iterable[str], reported: Sequence[str], key: str) -> None:
    """ConfigError with a config key if a metric is not among those that a trial reports."""
    for name in names:
        if name not in reported:
            raise ConfigError(
                f"{key}: trials do not report '{name}'. Allowed: "
                f"{', '.join(reported)}.{nearest(name, reported)}"
            )


def directions_of(
    names: Sequence[str],
    given: StudyDirection | Sequence[StudyDirection] | None,
    trainer: TrainerSettings,
    callbacks: Mapping[str, Callback],
) -> tuple[StudyDirection, ...]:
    """The direction of each objective: as given, or that of the metric.

    - `given`: `hydra.sweeper.direction`

    ConfigError if the number of directions is wrong, if a metric's direction is unknown or the
    opposite of the given one, or if a callback prunes by a metric of another direction.
    """
    monitored = {"trainer": {"monitor": trainer.monitor, "direction": trainer.direction}}
    known = [_DIRECTIONS.get(direction_of(name, monitored) or "") for name in names]
    chosen = known if given is None else [given] if isinstance(given, str) else list(given)
    if len(chosen) != len(names):
        raise ConfigError(
            f"hydra.sweeper.direction: got {len(chosen)} for {len(names)} objectives; give one "
            "for each, or null for the metrics' own directions."
        )
    directions: list[StudyDirection] = []
    for name, direction, own in zip(names, chosen, known, strict=True):
        if direction is None:
            raise ConfigError(
                f"hydra.sweeper.direction: the direction of {name} is unknown; give maximize or "
                "minimize."
            )
        if own is not None and direction != own:
            raise ConfigError(
                f"hydra.sweeper.direction: got {direction} for {name}, which is a metric to {own}. "
                "Leave the direction out (null)."
            )
        directions.append(direction)
    _check_pruning(directions, trainer, callbacks)
    return tuple(directions)


def _check_pruning(
    directions: Sequence[StudyDirection],
    trainer: TrainerSettings,
    callbacks: Mapping[str, Callback],
) -> None:
    """ConfigError if a callback prunes trials by a metric that contradicts the objective."""
    for name, callback in callbacks.items():
        if not isinstance(callback, Pruning):
            continue
        if len(directions) > 1:
            raise ConfigError(
                f"callbacks.{name}: a study with several objectives cannot prune. Remove the "
                f"callback: '~callbacks.{name}'."
            )
        monitors = not callback.compares_repeats
        if monitors and _DIRECTIONS[trainer.direction] != directions[0]:
            raise ConfigError(
                f"callbacks.{name}: prunes by trainer.monitor={trainer.monitor} "
                f"({trainer.direction}), but the objective is to {directions[0]}. Monitor a metric "
                "of the same direction."
            )
