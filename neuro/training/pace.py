"""The pace of a phase since this process entered it, and the time that is left at this pace."""

from __future__ import annotations

import time

from neuro.training.callbacks.base import TrainerView


class Pace:
    """Measures from its construction on; a resumed run does not count what came before.

    `tokens` of a sample, None if inputs are not tokens, are read from the task once: the table of
    bytes in a specification of text takes the time of a large vocabulary.
    """

    def __init__(self, trainer: TrainerView):
        self._trainer = trainer
        self.tokens = trainer.data.spec(trainer.phase.tasks[0]).tokens
        self._began = time.monotonic()
        self._first_step = trainer.progress.phase_step
        self._first_sample = trainer.progress.samples

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    @property
    def samples_per_s(self) -> float | None:
        """Samples of all processes per second; None before the first."""
        seen = self._trainer.progress.samples - self._first_sample
        return seen * self._trainer.world_size / self.seconds if seen > 0 else None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of all processes per second; None before the first, and without tokens."""
        rate = self.samples_per_s
        return None if rate is None or self.tokens is None else rate * self.tokens

    @property
    def phase_left_s(self) -> float | None:
        """Seconds to the end of the phase; None before the first update."""
        progress, phase = self._trainer.progress, self._trainer.phase
        return self._duration(max(phase.total_steps - progress.phase_step, 0))

    @property
    def later_s(self) -> float | None:
        """Seconds that later phases take, 0 in the last one; None before the first update."""
        plan = self._trainer.plan
        names = [phase.name for phase in plan]
        later = plan[names.index(self._trainer.phase.name) + 1 :]
        return self._duration(sum(phase.total_steps for phase in later))

    def _duration(self, steps: int) -> float | None:
        done = self._trainer.progress.phase_step - self._first_step
        return steps * self.seconds / done if done > 0 else None
