"""Accuracies that spiking networks must reach on temporal tasks: `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.helpers import read, train_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def accuracy(task: str, directory: Path, *overrides: str) -> float:
    report = read(train_here(directory, "tracking=none", *overrides))
    return float(report["metrics"][f"test/{task}/accuracy"])


def test_event_xor(tmp_path: Path) -> None:
    """Spiking networks learn the parity of up to 31 bits, coded as events or bit by bit."""
    assert accuracy("xor", tmp_path / "events", "experiment=event_xor_spiking") > 0.98
    dense = ("data.event_based=false", "data.encoder.units=2", "seed=1")
    assert accuracy("xor", tmp_path / "bits", "experiment=event_xor_spiking", *dense) > 0.98


def test_both_features_of_two_time_scales(tmp_path: Path) -> None:
    assert accuracy("mixed", tmp_path / "mixed", "experiment=timescales") > 0.97


def test_a_curriculum_of_silences_learns_a_long_one(tmp_path: Path) -> None:
    assert accuracy("context", tmp_path / "curriculum", "experiment=timescales_context") > 0.95
    alone = ("phase=single", "phase.main.task=context", "phase.main.epochs=20")
    assert accuracy("context", tmp_path / "alone", "experiment=timescales", *alone) < 0.6
