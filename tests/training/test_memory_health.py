"""The callback that logs memories: intervals, states of streams, and warnings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from neuro.learning.losses.cross_entropy import AutoregressiveCrossEntropy
from neuro.models.language.memory_lm import MemoryLM
from neuro.models.language.memory_state import Tier
from neuro.training.callbacks.memory_health import MemoryHealth
from neuro.training.trainer import Trainer
from tests.data.tokens.helpers import text, write_texts
from tests.fakes import make_trainer, series
from tests.language import SMALL

STATEFUL = {"training": True, "validation": True, "test": True, "reset": "never"}


def trainer_with(tmp_path: Path, health: MemoryHealth) -> Trainer:
    data = text(write_texts(tmp_path / "corpus"), streams=2, span=10)
    data.prepare()
    torch.manual_seed(0)
    model = MemoryLM(data.spec("all"), Tier(**SMALL), span=5)
    phase = {"task": "all", "steps": 6, "evaluate": "all"}
    return make_trainer(
        tmp_path / "run", model, data=data, terms={"ce": AutoregressiveCrossEntropy()},
        phases={"main": phase}, callbacks={"memory_health": health}, mapping="seq2seq",
        stateful=STATEFUL,
    )  # fmt: skip


def test_records_are_logged_at_intervals_from_the_streams(tmp_path: Path) -> None:
    trainer_with(tmp_path, MemoryHealth(every_steps=2)).fit()
    used = series(tmp_path / "run", "memory/pm/budget_use")
    assert [step for step, _ in used] == [2, 4, 6]
    # occupancy grows from batch to batch; from the initial state it would be constant
    assert used[0][1] < used[1][1]
    for name in ("surprise", "gates/saturation", "em/novelty", "em/budget_use", "pm/commits"):
        assert len(series(tmp_path / "run", f"memory/{name}")) == 3


@pytest.mark.parametrize(("span", "noted"), [(5, False), (6, True)])
def test_batches_of_less_than_two_spans_are_noted(tmp_path: Path, span: int, noted: bool) -> None:
    data = text(write_texts(tmp_path / "corpus"), streams=2, span=10)
    model = MemoryLM(data.spec("all"), Tier(**SMALL), span=span)
    plan = [SimpleNamespace(tasks=("all",))]
    setup = SimpleNamespace(model=model, data=data, plan=plan)
    notes = list(MemoryHealth().notes(setup))  # type: ignore[arg-type]
    assert [f"model.span={span}" in note for note in notes] == ([True] if noted else [])


def test_a_collapse_gives_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    health = MemoryHealth(every_steps=1, unused_below=0.5, saturated_above=0.01)
    trainer_with(tmp_path, health).fit()
    warnings = [r.getMessage() for r in caplog.records if r.name.endswith("memory_health")]
    assert len([w for w in warnings if "procedural memory stores almost nothing" in w]) == 1
    assert len([w for w in warnings if "memory/em/novelty" in w and "saturated" in w]) == 1


def test_a_full_memory_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer_with(tmp_path, MemoryHealth(every_steps=1, unused_below=0, full_above=1e-6)).fit()
    assert any("episodic memory is full" in r.getMessage() for r in caplog.records)
