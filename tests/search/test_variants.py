"""Named variants: which runs a sweep of them starts, and with which overrides."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.neuro_sweeper import VariantSweeper
from neuro.errors import ConfigError

VARIANTS = {"full": [], "slow": ["optimizer.lr=0.1", "scheduler=cosine"], "fast": ["a.b=[1,2]"]}


def jobs(*arguments: str, only: Sequence[str] | None = None) -> list[list[str]]:
    """The overrides of each job of a sweep over two seeds."""
    sweeper = VariantSweeper(VARIANTS, only, {"seed": "0,1"})
    swept = OverridesParser.create().parse_overrides(["seed=0,1", *arguments])
    (combinations,) = BasicSweeper.split_arguments(swept, max_batch_size=None)
    return sweeper.jobs(combinations)


def test_every_variant_runs_with_every_combination() -> None:
    slow = ["optimizer.lr=0.1", "scheduler=cosine"]
    assert jobs("sweep=mine") == [
        ["name=full", "seed=0", "sweep=mine"],
        ["name=full", "seed=1", "sweep=mine"],
        ["name=slow", *slow, "seed=0", "sweep=mine"],
        ["name=slow", *slow, "seed=1", "sweep=mine"],
        ["name=fast", "a.b=[1,2]", "seed=0", "sweep=mine"],
        ["name=fast", "a.b=[1,2]", "seed=1", "sweep=mine"],
    ]


def test_the_command_line_chooses_and_comes_last() -> None:
    (job,) = jobs("seed=5", "optimizer.lr=3", only=["slow"])
    assert job == [
        "name=slow",
        "optimizer.lr=0.1",
        "scheduler=cosine",
        "seed=5",
        "optimizer.lr=3",
    ]


def test_an_unknown_variant() -> None:
    with pytest.raises(ConfigError, match="no variant 'slw'. Variants: full, slow, fast. Did you"):
        jobs(only=["slw"])
