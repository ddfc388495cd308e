"""What a search looks at: metrics that its trials report, and which direction is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from neuro.analysis.metrics import direction_of
from neuro.config.trainer import TrainerSettings
from neuro.errors import ConfigError, nearest
from neuro.search.pruning import Pruning
from neuro.search.settings import Way
from neuro.training.callbacks.base import Callback

_WAYS: Mapping[str, Way] = {"max": "maximize", "min": "minimize"}


def check_objectives(names: Iterable[str], known: Sequence[str]) -> None:
    """ConfigError names an objective that no trial reports."""
    for name in names:
        if name not in known:
            raise ConfigError(
                f"hydra.sweeper.objectives: a trial reports no '{name}'. Allowed: "
                f"{', '.join(known)}.{nearest(name, known)}"
            )


def directions_of(
    names: Sequence[str],
    given: Way | Sequence[Way] | None,
    trainer: TrainerSettings,
    callbacks: Mapping[str, Callback],
) -> tuple[str, ...]:
    """The direction of each objective: as given, else what the metric's name says.

    ConfigError if they are not as many, if the name says the opposite or nothing, or if a callback
    prunes by a metric that does not go with the objective.
    """
    monitored = {"trainer": {"monitor": trainer.monitor, "direction": trainer.direction}}
    known = [_WAYS.get(direction_of(name, monitored) or "") for name in names]
    wanted = known if given is None else [given] if isinstance(given, str) else list(given)
    if len(wanted) != len(names):
        raise ConfigError(
            f"hydra.sweeper.direction: got {len(wanted)} for {len(names)} objectives; give one "
            "each, or null for what their names say."
        )
    for name, way, usual in zip(names, wanted, known, strict=True):
        if way is None:
            raise ConfigError(
                f"hydra.sweeper.direction: nothing says whether more or less of {name} is better; "
                "give maximize or minimize."
            )
        if usual is not None and way != usual:
            raise ConfigError(
                f"hydra.sweeper.direction: got {way} for {name}, which is a metric to {usual}. "
                "Leave the direction out (null)."
            )
    ways = tuple(way for way in wanted if way is not None)
    _check_pruning(ways, trainer, callbacks)
    return ways


def _check_pruning(
    ways: Sequence[Way], trainer: TrainerSettings, callbacks: Mapping[str, Callback]
) -> None:
    """ConfigError if trials would be stopped by something else than the search is after."""
    for name in (name for name, callback in callbacks.items() if isinstance(callback, Pruning)):
        if len(ways) > 1:
            raise ConfigError(
                f"callbacks.{name}: trials of several objectives cannot be compared while they "
                f"run. Leave it out: '~callbacks.{name}'."
            )
        if _WAYS[trainer.direction] != ways[0]:
            raise ConfigError(
                f"callbacks.{name}: stops trials by trainer.monitor={trainer.monitor} "
                f"({trainer.direction}), but the objective is to {ways[0]}. Monitor a metric of "
                "the same direction."
            )
