"""What the `trainer` node of a config may hold, and when something is due."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict

Count = Annotated[int, Gt(0)]


class Interval(BaseModel):
    """Every n optimizer updates, every n epochs, or both; null turns either off."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: Count | None = None
    epochs: Count | None = None

    def due_at_step(self, phase_step: int) -> bool:
        """Whether something is due after this update of the phase."""
        return self.steps is not None and phase_step % self.steps == 0

    def due_at_epoch(self, epoch: int, last: int) -> bool:
        """Whether something is due after `epoch` finished epochs of the phase's `last`."""
        return self.epochs is not None and (epoch % self.epochs == 0 or epoch == last)


class TrainerSettings(BaseModel):
    """Intervals, the monitored metric and the limits of the training loop."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    monitor: str
    direction: Literal["max", "min"]
    objective: str
    accumulate: Count
    clip_norm: Annotated[float, Gt(0)] | None
    max_skipped: Count
    log: Interval
    validation: Interval
    checkpoint: Interval
    keep: Annotated[int, Ge(0)]

    def better(self, value: float, than: float | None) -> bool:
        """Whether a monitored value is an improvement."""
        if than is None:
            return value == value  # anything but NaN
        return value > than if self.direction == "max" else value < than
