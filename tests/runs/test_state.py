"""run_state.json and the table of running runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuro.__main__ import main
from neuro.analysis.watching import watch
from neuro.runs import lock
from neuro.runs.state import FILE, read_state
from neuro.training.callbacks.run_state import RunStateWriter
from tests.analysis.helpers import finish
from tests.fakes import TWO_PHASES, linear, make_trainer


def test_the_state_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuro.training.callbacks.run_state._INTERVAL_S", 0.0)
    seen = []
    monkeypatch.setattr(
        "neuro.training.callbacks.run_state.write_state",
        lambda directory, status, state: seen.append(state),
    )
    trainer = make_trainer(
        tmp_path, linear(), phases=TWO_PHASES, callbacks={"it": RunStateWriter()}, log={"steps": 1}
    )
    trainer.fit()
    assert [(s.phase, s.phase_number, s.phases) for s in (seen[0], seen[-1])] == [
        (trainer.plan[0].name, 1, 2), (trainer.plan[1].name, 2, 2),
    ]  # fmt: skip
    last = seen[-1]
    assert last.step == trainer.progress.step == sum(p.total_steps for p in trainer.plan)
    assert last.phase_step == last.phase_steps == trainer.plan[1].total_steps
    assert last.samples == trainer.progress.samples and last.tokens is None
    assert last.eta_s == 0.0 and last.samples_per_s > 0
    assert last.best is not None and last.monitor == trainer.settings.monitor
    assert seen[0].checkpoint is None and last.checkpoint == "checkpoints/last.safetensors"
    middle = next(s for s in seen if s.phase_number == 1 and s.phase_step == 2)
    assert middle.eta_s > 0 and middle.loss is not None and middle.lr > 0


def running(path: Path, **state: object) -> None:
    finish(path, {"test/loss": 1.0}, "name=it")
    meta = json.loads((path / "run_meta.json").read_text())
    (path / "run_meta.json").write_text(json.dumps({**meta, "status": "running"}))
    if state:
        (path / FILE).write_text(json.dumps(state))


STATE = {
    "phase": "task2", "phase_number": 2, "phases": 3, "phase_step": 30, "phase_steps": 120,
    "loss": 0.25, "best": None, "samples_per_s": 64.0, "tokens_per_s": 16384.0, "eta_s": 3725.0,
}  # fmt: skip


def test_running_runs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running(tmp_path / "a", **STATE)
    running(tmp_path / "b")
    running(tmp_path / "killed")
    finish(tmp_path / "ended", {"test/loss": 1.0})
    with lock.locked(tmp_path / "a"), lock.locked(tmp_path / "b"):
        watch(tmp_path, 0.0, rounds=2)
    out = capsys.readouterr().out
    assert out.count("task2 2/3") == 2
    for part in ("30/120 25%", "0.25", "1.638e+04 tokens", "1:02:05"):
        assert part in out
    assert "killed" not in out and "ended" not in out


def test_no_running_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(tmp_path, 0.0, rounds=1)
    assert "none yet" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), "--watch", "0"]) == 2
    assert "--watch: got 0; expected seconds above 0" in capsys.readouterr().err


def test_a_damaged_state_is_ignored(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    assert read_state(tmp_path) == {}
