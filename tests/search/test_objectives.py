"""Objectives of a study and their directions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from neuro.config.trainer import TrainerSettings
from neuro.errors import ConfigError
from neuro.search.objectives import check_metrics, directions_of
from neuro.search.pruning import Pruning
from neuro.search.settings import parse_settings
from tests.test_conf import compose


@pytest.fixture(scope="module")
def trainer() -> TrainerSettings:
    written = TrainerSettings.model_validate(compose("tracking=none")["trainer"], strict=False)
    return written.model_copy(update={"monitor": "val/accuracy", "direction": "max"})


@pytest.mark.parametrize(
    "names, given, expected",
    [
        (["test/accuracy"], None, ("maximize",)),
        (["hardware/energy_uj_high", "continual/bwt"], None, ("minimize", "maximize")),
        (["hardware/own"], "minimize", ("minimize",)),
    ],
)
def test_directions_are_known_or_given(
    names: Sequence[str], given: str | None, expected: tuple[str, ...], trainer: TrainerSettings
) -> None:
    assert directions_of(names, given, trainer, {}) == expected


@pytest.mark.parametrize(
    "names, given, expected",
    [
        (["a/accuracy", "a/loss"], ["maximize"], "got 1 for 2 objectives"),
        (["hardware/own"], None, "the direction of hardware/own is unknown"),
        (["test/loss"], "maximize", "got maximize for test/loss, which is a metric to minimize"),
    ],
)
def test_invalid_directions(
    names: Sequence[str], given: Sequence[str] | None, expected: str, trainer: TrainerSettings
) -> None:
    with pytest.raises(ConfigError, match=expected):
        directions_of(names, given, trainer, {})


def test_pruning_must_have_the_direction_of_the_objective(trainer: TrainerSettings) -> None:
    assert directions_of(["test/accuracy"], None, trainer, {"pruning": Pruning()}) == ("maximize",)
    with pytest.raises(ConfigError, match="but the objective is to minimize"):
        directions_of(["test/loss"], None, trainer, {"pruning": Pruning()})
    repeats = {"pruning": Pruning(pruner="wilcoxon")}  # the wilcoxon pruner compares objectives
    assert directions_of(["test/loss"], None, trainer, repeats) == ("minimize",)
    with pytest.raises(ConfigError, match="several objectives cannot prune"):
        directions_of(["a/accuracy", "a/loss"], None, trainer, {"pruning": Pruning()})


def test_an_objective_that_no_trial_reports() -> None:
    with pytest.raises(
        ConfigError, match="not report 'test/acuracy'.*Did you mean 'test/accuracy'"
    ):
        check_metrics(["test/acuracy"], ["test/accuracy", "test/loss"], "hydra.sweeper.objectives")


def test_settings_are_checked_together() -> None:
    values = {
        "direction": "up",
        "objectives": None,
        "storage": None,
        "study_name": None,
        "n_trials": 0,
        "n_jobs": 1,
        "max_failure_rate": 2.0,
        "accept_code": False,
        "params": None,
        "conditional": None,
    }
    with pytest.raises(ConfigError) as error:
        parse_settings(values)
    for name in ("direction", "n_trials", "max_failure_rate"):
        assert f"hydra.sweeper.{name}" in str(error.value)
