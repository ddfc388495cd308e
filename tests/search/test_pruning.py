"""Each key of the pruning callback changes which trials are pruned."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from neuro.search.pruning import Pruning


def pruned(value: float, step: int, others: int = 6, **options: Any) -> bool:
    """Whether a trial with this value at this update is pruned, with other trials at 0.5 to 1."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=Pruning(**options)._create_pruner())
    for i in range(others):
        trial = study.ask()
        trial.report(0.5 + 0.5 * i / others, step)
        trial.should_prune()  # successive halving keeps its rungs when asked
        study.tell(trial, 1.0)
    trial = study.ask()
    trial.report(value, step)
    return trial.should_prune()


def test_worse_than_the_median() -> None:
    assert pruned(0.1, 10)
    assert not pruned(0.99, 10)


def test_the_median_waits_for_trials_and_updates() -> None:
    assert not pruned(0.1, 10, startup_trials=7)
    assert not pruned(0.1, 10, warmup_steps=11)


@pytest.mark.parametrize("options, expected", [({}, True), ({"min_steps": 100}, False)])
def test_halving_begins_at_its_first_rung(options: dict[str, int], expected: bool) -> None:
    assert pruned(0.1, 20, pruner="halving", **options) is expected


def test_the_reduction_says_how_many_go_on() -> None:
    """Of seven trials the best 1/2 are three, the best 1/6 is one."""
    third_best = 0.8
    assert not pruned(third_best, 20, pruner="halving", reduction=2)
    assert pruned(third_best, 20, pruner="halving", reduction=6)
