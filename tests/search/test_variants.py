"""Named variants: which runs a sweep of them starts, and with which overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydra_plugins.neuro_sweeper import VariantSweeper
from neuro.errors import ConfigError

VARIANTS = {"full": [], "slow": ["optimizer.lr=0.1", "scheduler=cosine"], "fast": ["a.b=[1,2]"]}


def jobs(directory: Path, *arguments: str, only: Sequence[str] | None = None) -> list[list[str]]:
    """The overrides of each run that a sweep launches."""
    launched: list[list[str]] = []

    def launch(batch: list[list[str]], initial_job_idx: int) -> list[Any]:
        launched.extend(batch)
        return []

    sweeper = VariantSweeper(VARIANTS, only, {"seed": "0,1"})
    sweeper.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(directory)}}})
    sweeper.launcher = SimpleNamespace(launch=launch)  # type: ignore[assignment]
    sweeper.validate_batch_is_legal = lambda batch: None  # type: ignore[method-assign,assignment]
    sweeper.sweep(list(arguments))
    return launched


def test_every_variant_runs_with_every_combination(tmp_path: Path) -> None:
    slow = ["optimizer.lr=0.1", "scheduler=cosine"]
    assert jobs(tmp_path, "sweep=mine") == [
        ["name=full", "seed=0", "sweep=mine"],
        ["name=full", "seed=1", "sweep=mine"],
        ["name=slow", *slow, "seed=0", "sweep=mine"],
        ["name=slow", *slow, "seed=1", "sweep=mine"],
        ["name=fast", "a.b=[1,2]", "seed=0", "sweep=mine"],
        ["name=fast", "a.b=[1,2]", "seed=1", "sweep=mine"],
    ]


def test_the_command_line_chooses_and_comes_last(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "seed=5", "optimizer.lr=3", only=["slow"])
    assert job == [
        "name=slow",
        "optimizer.lr=0.1",
        "scheduler=cosine",
        "seed=5",
        "optimizer.lr=3",
    ]


def test_an_unknown_variant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no variant 'slw'. Variants: full, slow, fast. Did you"):
        jobs(tmp_path, only=["slw"])
