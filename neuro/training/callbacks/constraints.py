"""A model's own constraints, as a projection after every update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from neuro.models.capabilities import Constrained
from neuro.training.callbacks.base import Callback

if TYPE_CHECKING:
    from neuro.training.trainer import Trainer


class Constraints(Callback):
    """Calls the model's `project`, which brings weights back within their constraints."""

    requires = (Constrained,)
    enforces_constraints = True

    def on_step(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        assert isinstance(trainer.model, Constrained)
        trainer.model.project()
