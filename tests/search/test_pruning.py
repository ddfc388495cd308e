"""Each key of the pruning callback changes which trials are pruned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from neuro.errors import TrialPruned
from neuro.runs.report import Report
from neuro.search.pruning import Pruning
from neuro.search.storage import (
    OBJECTIVES,
    TRIAL_VARIABLE,
    open_storage,
    storage_url,
    trial_reference,
)
from neuro.search.summary import trial_rows


def pruned(value: float, step: int, others: int = 6, **options: Any) -> bool:
    """Whether a trial with this value at this update is pruned, with other trials at 0.5 to 1."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=Pruning(**options)._create_pruner())
    for i in range(others):
        trial = study.ask()
        trial.report(0.5 + 0.5 * i / others, step)
        trial.should_prune()  # successive halving stores its rungs in this call
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


def test_the_patient_pruner_waits_for_validations_without_improvement() -> None:
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
    """Its brackets begin at different rungs; the first rung is min_steps."""
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


def test_the_reduction_determines_the_number_of_survivors() -> None:
    """Of seven trials, the best 1/2 are three and the best 1/6 is one."""
    third_best = 0.8
    assert not pruned(third_best, 20, pruner="halving", reduction=2)
    assert pruned(third_best, 20, pruner="halving", reduction=6)


#: accuracies of repeats that depend on the seed much more than on the trial
SEEDS = (0.4, 0.9, 0.6, 0.7, 0.5, 0.8)


class Repeated:
    """A study on disk, the trials of which are sets of repeats."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, **options: Any):
        self.url, self.options, self._patch = storage_url(None, directory), options, monkeypatch
        self.study = optuna.create_study(
            study_name="s", storage=open_storage(self.url), direction="maximize"
        )
        self.study.set_user_attr(OBJECTIVES, ["test/accuracy"])

    def trial(self, values: tuple[float, ...]) -> int:
        """Run a trial with these objectives; returns how many of its repeats ran."""
        trial = self.study.ask()
        self._patch.setenv(TRIAL_VARIABLE, trial_reference(self.url, "s", trial.number))
        pruning = Pruning(pruner="wilcoxon", **self.options)
        for number, value in enumerate(values):
            report = Report(metrics={"test/accuracy": value, "test/loss": 0.1})
            try:
                pruning.on_repeat_end(number, len(values), report)
            except TrialPruned as error:
                assert f"over {number + 1} of {len(values)} repeats" in str(error)
                self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return number + 1
        self.study.tell(trial, sum(values) / len(values))
        return len(values)


def test_repeats_are_compared_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairing by seed detects differences far below the spread over seeds."""
    study = Repeated(tmp_path, monkeypatch)
    assert study.trial(SEEDS) == 6
    assert study.trial(tuple(value + 0.01 for value in SEEDS)) == 6  # the best trial so far
    worse = tuple(value - 0.01 for value in SEEDS)
    assert study.trial(worse) == 4  # the first number of repeats with 2^-n < 0.1
    (row,) = (row for row in trial_rows(study.study) if row.state == "pruned")
    assert row.values == (pytest.approx(sum(worse[:4]) / 4),)


@pytest.mark.parametrize(
    "options, repeats",
    [({"p_threshold": 0.3}, 2), ({"startup_repeats": 5}, 5), ({"p_threshold": 0.01}, 6)],
)
def test_the_wilcoxon_test_waits_for_evidence(
    options: dict[str, Any], repeats: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Repeated(tmp_path, monkeypatch, **options)
    study.trial(SEEDS)
    assert study.trial(tuple(value - 0.01 for value in SEEDS)) == repeats


@pytest.mark.parametrize(
    "options, repeats, expected",
    [
        ({}, 1, None),
        ({}, 3, "repeats: got 3, but callbacks.p.pruner=median compares validations"),
        ({"pruner": "wilcoxon"}, 1, "callbacks.p.pruner: got wilcoxon.* but repeats=1"),
        (
            {"pruner": "wilcoxon"},
            4,
            "got repeats=4, but with p_threshold=0.1 .* only after 4",
        ),
        ({"pruner": "wilcoxon"}, 5, None),
        ({"pruner": "wilcoxon", "p_threshold": 0.3}, 3, None),
        ({"pruner": "wilcoxon", "startup_repeats": 5}, 5, "startup_repeats=5 .* only after 5"),
    ],
)
def test_each_pruner_has_its_number_of_repeats(
    options: dict[str, Any], repeats: int, expected: str | None
) -> None:
    problem = Pruning(**options).problem("callbacks.p", repeats)
    assert problem is None if expected is None else re.search(expected, problem or "")
