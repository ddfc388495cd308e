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


def test_the_patient_one_waits_for_validations_without_a_better_value() -> None:
    study = optuna.create_study(
        direction="maximize", pruner=Pruning(pruner="patient", patience=2)._create_pruner()
    )
    for _ in range(5):
        trial = study.ask()
        for step in range(6):
            trial.report(0.5, step)
        study.tell(trial, 1.0)
    trial = study.ask()
    asked = []
    for step, value in enumerate((0.1, 0.2, 0.1, 0.1, 0.1)):
        trial.report(value, step)
        asked.append(trial.should_prune())
    assert asked == [False, False, False, False, True]


def test_hyperband_prunes_from_its_first_rung() -> None:
    """Its brackets begin at different rungs, of which the first is min_steps."""
    options = {"pruner": "hyperband", "reduction": 2}
    study = optuna.create_study(
        direction="maximize", pruner=Pruning(min_steps=1, **options)._create_pruner()
    )
    pruned_trials = 0
    for i in range(40):
        trial = study.ask()
        value = (i * 7 % 40) / 40
        for step in (1, 2, 4, 8, 16):
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                pruned_trials += 1
                break
        else:
            study.tell(trial, value)
    assert 5 < pruned_trials < 40
    late = Pruning(min_steps=100, **options)._create_pruner()
    assert not any(late.prune(study, trial) for trial in study.trials)


def test_the_reduction_says_how_many_go_on() -> None:
    """Of seven trials the best 1/2 are three, the best 1/6 is one."""
    third_best = 0.8
    assert not pruned(third_best, 20, pruner="halving", reduction=2)
    assert pruned(third_best, 20, pruner="halving", reduction=6)
