"""The constraints of a model, enforced by a projection after every update."""

from __future__ import annotations

from collections.abc import Mapping

from neuro.models.capabilities import Constrained
from neuro.training.callbacks.base import Callback, TrainerView


class Constraints(Callback):
    """Calls the model's `project`, which projects weights onto their constraints."""

    requires = (Constrained,)
    enforces_constraints = True

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        assert isinstance(trainer.model, Constrained)
        trainer.model.project()
