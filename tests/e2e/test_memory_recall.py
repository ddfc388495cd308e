"""Recall beyond the attention window and the document, with memories and with attention alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.helpers import read, train_here

SIZED = ("model=transformer_lm", "model.dim=92", "model.layers=2", "model.heads=2")


def accuracies(folder: Path, *overrides: str) -> list[float]:
    """Accuracies at 2 and 4 windows; chance is 1 in 8."""
    metrics = read(train_here(folder, "tracking=none", *overrides))["metrics"]
    tasks = [name for name in metrics if re.fullmatch(r"test/recall\w*_(32|64)/accuracy", name)]
    assert len(tasks) == 2
    return [metrics[name] for name in tasks]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_recalls_pairs_from_beyond_the_window(tmp_path: Path) -> None:
    """The transformer's two layers reach back 31 tokens."""
    preset = "experiment=memory_recall"
    assert min(accuracies(tmp_path / "memory", preset)) >= 0.9
    assert max(accuracies(tmp_path / "window", preset, *SIZED, "model.window=16")) < 0.25


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_recalls_pairs_from_the_document_before(tmp_path: Path) -> None:
    """The transformer attends across the ends of documents, but not further than its window."""
    preset = "sweep=memory_recall_across"
    memory = (
        "+phase.first.flags={lifelong: true, use_pm: false}", "+phase.main.flags.use_pm=true"
    )  # fmt: skip
    assert min(accuracies(tmp_path / "memory", preset, *memory)) >= 0.9
    window = (*SIZED, "model.window=16", "model.across_documents=true")
    assert max(accuracies(tmp_path / "window", preset, *window)) < 0.25
