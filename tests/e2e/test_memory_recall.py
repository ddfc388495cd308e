"""Recall beyond the attention window, with a memory and with attention alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.helpers import read, train_here

SIZED = ("model=transformer_lm", "model.dim=92", "model.layers=2", "model.heads=2")


def accuracies(folder: Path, *overrides: str) -> list[float]:
    run = train_here(folder, "experiment=memory_recall", "tracking=none", *overrides)
    metrics = read(run)["metrics"]
    return [metrics[f"test/recall_{distance}/accuracy"] for distance in (32, 64)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_recalls_pairs_from_beyond_the_window(tmp_path: Path) -> None:
    """At 2 and 4 windows; the transformer's two layers reach back 31 tokens. Chance is 1 in 8."""
    assert min(accuracies(tmp_path / "memory")) >= 0.9
    assert max(accuracies(tmp_path / "window", *SIZED, "model.window=16")) < 0.25
