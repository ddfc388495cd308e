"""Optuna's samplers, created for a study, and grid search."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler

from neuro.errors import ConfigError
from neuro.search.ranges import choices
from neuro.search.space import Space

#: user attribute of a trial: the combination of a grid that it was queued for
_COMBINATION = "combination"


class Grid(RandomSampler):
    """Grid search: the sweep queues every combination in the study at its start.

    Optuna's own GridSampler marks a combination as visited when its trial starts, and therefore
    never repeats one whose trial was killed.
    """

    def __init__(self) -> None:
        super().__init__(seed=0)  # not used: all values come from the queue


def make_sampler(sampler: object, stored: int) -> BaseSampler:
    """Create the sampler of a study.

    - `sampler`: what Hydra instantiates from `hydra.sweeper.sampler`, a functools.partial
    - `stored`: number of trials in the study; added to the sampler's seed, as a resumed sweep would
      draw the same random values again otherwise

    ConfigError if this is not a sampler or its settings are invalid.
    """
    if not callable(sampler):
        raise ConfigError(
            "hydra.sweeper.sampler: needs _partial_: true, since it is created with the study; "
            "see conf/hydra/sweeper/sampler/."
        )
    seed = getattr(sampler, "keywords", {}).get("seed")
    seeded = {} if seed is None else {"seed": seed + stored}
    try:
        with warnings.catch_warnings():  # several samplers warn that they are experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)
            created = sampler(**seeded)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise ConfigError(f"hydra.sweeper.sampler: {error}") from error
    if not isinstance(created, BaseSampler):
        raise ConfigError(
            f"hydra.sweeper.sampler._target_: {type(created).__name__} is not a sampler of Optuna. "
            "Options: hydra/sweeper/sampler=tpe, gp, cmaes, nsgaii, nsgaiii, qmc, random or grid."
        )
    return created


def check_sampler(sampler: object, space: Space, objectives: Sequence[str]) -> None:
    """ConfigError if a sampler, as given to `make_sampler`, cannot search a space."""
    if getattr(sampler, "func", None) is not CmaEsSampler:
        return
    if len(objectives) > 1:
        raise ConfigError(
            f"hydra/sweeper/sampler=cmaes: takes one objective, got {', '.join(objectives)}. Use "
            "hydra/sweeper/sampler=tpe, nsgaii or gp."
        )
    if named := [n for n, r in space.ranges.items() if choices(r)]:
        raise ConfigError(
            f"hydra/sweeper/sampler=cmaes: {named[0]} has categories, and CMA-ES takes numbers. "
            f"Give a range, e.g. {named[0]}=interval(0.0,1.0), or use hydra/sweeper/sampler=tpe."
        )


def enqueue_grid(study: optuna.Study, space: Space) -> int:
    """Queue every combination without a trial; returns the number of all combinations.

    ConfigError if a range of the space is continuous.
    """
    combinations = space.grid()
    trials = study.get_trials(deepcopy=False)
    queued = [trial.user_attrs.get(_COMBINATION, trial.params) for trial in trials]
    for values in combinations:
        if values not in queued:
            study.enqueue_trial(values, {_COMBINATION: values}, skip_if_exists=bool(trials))
    return len(combinations)
