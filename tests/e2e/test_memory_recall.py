"""Recall beyond the attention window and the document, with memories and with attention alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.helpers import launch_here, read, train_here


def accuracies(run: Path) -> list[float]:
    """Accuracies at 2 and 4 windows; chance is 1 in 8."""
    metrics = read(run)["metrics"]
    tasks = [name for name in metrics if re.fullmatch(r"test/recall\w*_(32|64)/accuracy", name)]
    assert len(tasks) == 2
    return [metrics[name] for name in tasks]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_recalls_pairs_from_beyond_the_window(tmp_path: Path) -> None:
    """The transformer's two layers reach back 31 tokens."""
    preset = ("experiment=memory_recall", "tracking=none")
    assert min(accuracies(train_here(tmp_path / "memory", *preset))) >= 0.9
    sized = ("model=transformer_lm", "model.dim=92", "model.layers=2", "model.heads=2")
    window = train_here(tmp_path / "window", *preset, *sized, "model.window=16")
    assert max(accuracies(window)) < 0.25


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_recalls_pairs_from_the_document_before(tmp_path: Path) -> None:
    """The transformer attends across the ends of documents, but not further than its window."""
    done = launch_here(
        "sweep=memory_recall_across", "hydra.sweeper.only=[memory_lm,transformer_lm]",
        "hydra.sweeper.params.seed=0", "tracking=none", f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert min(accuracies(tmp_path / "0")) >= 0.9
    assert max(accuracies(tmp_path / "1")) < 0.25
