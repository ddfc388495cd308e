"""What proposes a trial's values: Optuna's samplers, made when the study is known, or a grid."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler

from neuro.errors import ConfigError
from neuro.search.space import Space


class Grid(RandomSampler):
    """Every combination once: all of them wait in the study from the beginning.

    Optuna's own GridSampler remembers what was visited by trial, and so leaves out combinations
    whose trial was killed.
    """

    def __init__(self) -> None:
        super().__init__(seed=0)  # nothing is left to chance


def make_sampler(sampler: Any, stored: int) -> BaseSampler:
    """The sampler of a config node; its seed, if it has one, moved on by the number of trials.

    ConfigError if it refuses its settings.
    """
    if not callable(sampler):
        raise ConfigError(
            "hydra.sweeper.sampler: needs _partial_: true, since it is made for a study; see "
            "conf/hydra/sweeper/sampler/."
        )
    seed = getattr(sampler, "keywords", {}).get("seed")
    moved = {} if seed is None else {"seed": seed + stored}
    try:
        with warnings.catch_warnings():  # Optuna calls several of them experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)
            found = sampler(**moved)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise ConfigError(f"hydra.sweeper.sampler: {error}") from error
    if not isinstance(found, BaseSampler):
        raise ConfigError(
            f"hydra.sweeper.sampler._target_: {type(found).__name__} is no sampler of Optuna. "
            "Options: hydra/sweeper/sampler=tpe, random, grid, cmaes, nsgaii or motpe."
        )
    return found


def enqueue_grid(study: optuna.Study, space: Space) -> int:
    """Let every combination wait that has no trial yet; how many combinations there are."""
    known = [
        trial.system_attrs["fixed_params"]
        for trial in study.get_trials(deepcopy=False)
        if "fixed_params" in trial.system_attrs
    ]
    combinations = space.grid()
    for values in combinations:
        if values not in known:
            study.enqueue_trial(values)
    return len(combinations)
