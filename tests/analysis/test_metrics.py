"""Directions and formats of metrics by name."""

from __future__ import annotations

import pytest

from neuro.analysis.metrics import check_known, direction_of, is_fraction, parse_direction
from neuro.errors import ConfigError


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("test/accuracy", "max"),
        ("test/fast/accuracy", "max"),
        ("continual/bwt", "max"),
        ("continual/forgetting", "min"),
        ("test/loss", "min"),
        ("test/mae", "min"),
        ("hardware/energy_uj_high", "min"),
        ("hardware/latency_us_low", "min"),
        ("hardware/cores", "min"),
        ("val/top_5", "max"),
        ("test/psnr", "max"),
        ("test/scores", None),
    ],
)
def test_directions_by_name(metric: str, direction: str | None) -> None:
    assert direction_of(metric, {}) == direction


def test_trainer_direction_applies_to_metrics_of_the_monitored_kind() -> None:
    config = {"trainer": {"monitor": "val/score", "direction": "min"}}
    assert direction_of("test/score", config) == "min"
    assert direction_of("test/accuracy", config) == "max"
    auto = {"trainer": {"monitor": "auto", "direction": "auto"}}
    assert direction_of("test/accuracy", auto) == "max"


@pytest.mark.parametrize(
    ("metric", "fraction"),
    [
        ("test/fast/accuracy", True),
        ("continual/bwt", True),
        ("x/spike_fraction", True),
        ("val/top_5", True),
        ("val/top", False),
        ("test/loss", False),
        ("x/cores", False),
    ],
)
def test_fractions_are_known(metric: str, fraction: bool) -> None:
    assert is_fraction(metric) is fraction


def test_a_direction_in_an_option() -> None:
    assert parse_direction("test/loss", "--sort") == ("test/loss", None)
    assert parse_direction("test/loss:min", "--sort") == ("test/loss", "min")
    with pytest.raises(ConfigError, match="--sort test/loss:low: .* max, min. Got 'low'"):
        parse_direction("test/loss:low", "--sort")


def test_an_unknown_metric_is_named_with_those_that_exist() -> None:
    check_known("test/loss", ["test/loss"], "--sort")
    with pytest.raises(ConfigError, match=r"--sort test/los: .* Metrics: a, test/loss\. Did you"):
        check_known("test/los", ["test/loss", "a"], "--sort")
