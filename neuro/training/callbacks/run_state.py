"""Writes run_state.json while a run trains, see `neuro.runs.state`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from neuro.runs.state import TrainingState, write_state
from neuro.training.callbacks.base import Callback, TrainerView
from neuro.training.pace import Pace

#: seconds between two writes at least, so that short updates do not wait for the disk
_INTERVAL_S = 1.0
_LAST = Path("checkpoints", "last.safetensors")


class RunStateWriter(Callback):
    """Replaces the file at log intervals, after validations and at the ends of a phase."""

    main_process_only = True

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self._phase: str | None = None
        self._loss: float | None = None
        self._written = -_INTERVAL_S

    def on_phase_start(self, trainer: TrainerView) -> None:
        self._write(trainer)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._follow(trainer)
        if not metrics:
            return
        self._loss = metrics.get("train/loss", self._loss)
        if time.monotonic() - self._written >= _INTERVAL_S:
            self._write(trainer)

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._write(trainer)

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._write(trainer)

    def _follow(self, trainer: TrainerView) -> Pace:
        """The pace of the current phase; a resumed run enters it without `on_phase_start`."""
        if self._pace is None or self._phase != trainer.phase.name:
            self._pace, self._phase, self._loss = Pace(trainer), trainer.phase.name, None
        return self._pace

    def _write(self, trainer: TrainerView) -> None:
        pace = self._follow(trainer)
        phase, progress, names = trainer.phase, trainer.progress, [p.name for p in trainer.plan]
        left, later = pace.phase_left_s, pace.later_s
        seen = progress.samples * trainer.world_size
        state = TrainingState(
            phase=phase.name,
            phase_number=names.index(phase.name) + 1,
            phases=len(names),
            step=progress.step,
            phase_step=progress.phase_step,
            phase_steps=phase.total_steps,
            samples=seen,
            tokens=None if pace.tokens is None else seen * pace.tokens,
            loss=self._loss,
            lr=trainer.lr,
            monitor=trainer.settings.monitor,
            best=trainer.best,
            samples_per_s=pace.samples_per_s,
            tokens_per_s=pace.tokens_per_s,
            eta_s=None if left is None or later is None else left + later,
            checkpoint=str(_LAST) if (trainer.run_dir / _LAST).exists() else None,
        )
        write_state(trainer.run_dir, "running", state)
        self._written = time.monotonic()
