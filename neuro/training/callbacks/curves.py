"""Figures of chosen metrics over the whole run so far, one file for each figure and phase."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Gt, MinLen

from neuro.runs.record import RunRecord
from neuro.training.callbacks.base import Callback, TrainerView
from neuro.training.callbacks.plotting import write_plot


class Curves(Callback):
    """Plots metrics as `plots/through_phase_<phase>_plot_<name>.png`, cumulative over phases.

    `figures` has a list of patterns of metrics for each name, as in `{em: ["memory/em/*"]}`; a
    figure has a panel for each kind of metric. Every `every_steps` updates and after each phase.
    """

    main_process_only = True

    def __init__(
        self,
        figures: Annotated[dict[str, tuple[str, ...]], MinLen(1)],
        every_steps: Annotated[int, Gt(0)] | None = 500,
    ):
        self.figures = figures
        self.every_steps = every_steps
        self._phases: list[tuple[str, int]] = []

    def on_phase_start(self, trainer: TrainerView) -> None:
        self._phases.append((trainer.phase.name, trainer.progress.step))

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self.every_steps is not None and trainer.progress.step % self.every_steps == 0:
            self._plot(trainer)

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._plot(trainer)

    def _plot(self, trainer: TrainerView) -> None:
        from neuro.analysis.plots.training import training_curves

        found = RunRecord(trainer.run_dir).metrics()
        for name, patterns in self.figures.items():
            series = {m: found[m] for m in found if any(fnmatch.fnmatch(m, p) for p in patterns)}
            if not series:
                continue  # not measured yet
            figure = training_curves(series, self._phases, title=name)
            write_plot(trainer, f"through_phase_{trainer.phase.name}_plot_{name}", figure)

    def state_dict(self) -> dict[str, list[tuple[str, int]]]:
        return {"phases": self._phases}

    def load_state_dict(self, state: dict[str, list[tuple[str, int]]]) -> None:
        self._phases = [(name, step) for name, step in state["phases"]]
