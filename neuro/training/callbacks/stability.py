"""Continual evaluation: scores of earlier tasks while a new one is learned.

De Lange et al. 2023, "Continual evaluation for lifelong learning: identifying the stability gap".
Scores after each phase hide that those of earlier tasks drop within the first updates of a new one
and recover later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Gt

from neuro.training.callbacks.base import Callback, Setup, TrainerView


class Stability(Callback):
    """Measures the tasks of earlier phases every `every_steps` updates of a phase.

    Logs `stability/<task>/<metric>` of the objective's first metric, and reports

    - `continual/min_acc`: the mean over tasks of the worst score since they were learned
    - `continual/stability_gap`: the mean over phases and tasks of the drop from the score at the
      start of the phase to the worst one within it

    both over tasks that later phases do not learn. `split`: the data that is measured.
    """

    def __init__(
        self, every_steps: Annotated[int, Gt(0)] = 10, split: Literal["val", "test"] = "val"
    ):
        self.every_steps = every_steps
        self.split: Literal["val", "test"] = split
        self._level: dict[str, float] = {}  # at the start of the phase
        self._worst: dict[str, float] = {}  # within the phase
        self._least: dict[str, float] = {}  # since a task was learned
        self._drops: list[float] = []

    def check(self, setup: Setup) -> Iterator[str]:
        if len(setup.plan) == 1:
            yield (
                "every_steps: there are no tasks of earlier phases to measure in a curriculum of "
                "one phase; leave the callback out, or give several phases."
            )

    def reports(self, setup: Setup) -> Iterator[str]:
        learned: set[str] = set()
        for phase in setup.plan:
            if learned.difference(phase.tasks):
                yield from ("continual/min_acc", "continual/stability_gap")
                return
            learned.update(phase.tasks)

    def on_phase_start(self, trainer: TrainerView) -> None:
        self._level = self._measured(trainer)
        self._worst = dict(self._level)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self._level and trainer.progress.phase_step % self.every_steps == 0:
            self._include(trainer)

    def on_training_end(self, trainer: TrainerView) -> None:
        self._include(trainer)

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        sign = self._sign(trainer)
        self._drops += [sign * (self._level[task] - self._worst[task]) for task in self._level]
        if not self._drops:
            return
        least = list(self._least.values())
        trainer.add_to_report(
            {
                "continual/min_acc": sum(least) / len(least),
                "continual/stability_gap": sum(self._drops) / len(self._drops),
            }
        )

    def _include(self, trainer: TrainerView) -> None:
        """Measure and log the scores, and keep the worst of each."""
        worse = min if self._sign(trainer) > 0 else max
        scores = self._measured(trainer)
        name = trainer.objective.main_metric
        trainer.log({f"stability/{task}/{name}": score for task, score in scores.items()})
        for task, score in scores.items():
            self._worst[task] = worse(self._worst[task], score)
            self._least[task] = worse(self._least.get(task, score), score)

    def _measured(self, trainer: TrainerView) -> dict[str, float]:
        """The scores of the tasks of earlier phases that the current one does not learn."""
        before = trainer.plan[: trainer.phase.index]
        learned = dict.fromkeys(task for phase in before for task in phase.tasks)
        tasks = [task for task in learned if task not in trainer.phase.tasks]
        name = trainer.objective.main_metric
        return {task: row[name] for task, row in trainer.measure(tasks, self.split).items()}

    def _sign(self, trainer: TrainerView) -> int:
        directions = trainer.objective.directions
        return 1 if directions[trainer.objective.main_metric] == "max" else -1

    def state_dict(self) -> dict[str, Any]:
        return {
            "level": self._level,
            "worst": self._worst,
            "least": self._least,
            "drops": self._drops,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._level, self._worst = state["level"], state["worst"]
        self._least, self._drops = state["least"], state["drops"]
