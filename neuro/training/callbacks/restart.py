"""Every phase starts from the initial weights: what each task can reach alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuro.training.callbacks.base import Callback, TrainerView


class Restart(Callback):
    """The single-task bound of a curriculum.

    `continual/learning_acc` is then the mean score of models of one task each. Terms of the
    objective keep their states.
    """

    def __init__(self) -> None:
        self._initial: dict[str, Tensor] = {}

    def on_phase_start(self, trainer: TrainerView) -> None:
        if not self._initial:
            self._initial = {name: x.clone() for name, x in trainer.model.state_dict().items()}
        trainer.model.load_state_dict(self._initial)

    def state_dict(self) -> dict[str, Any]:
        return {"initial": self._initial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._initial = state["initial"]
