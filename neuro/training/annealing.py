"""Values that change from a start to an end over the epochs of a phase.

They are functions of the position in the phase, so that checkpoints need no state of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt

if TYPE_CHECKING:
    from neuro.training.callbacks.base import TrainerView

Shape = Literal["linear", "exponential", "cosine", "sinusoidal"]
Epoch = Annotated[float, Ge(0)]
Period = Annotated[float, Gt(0)]


class Ramp(NamedTuple):
    """A value that is `start` until `start_epoch` of each phase and changes until `end_epoch`.

    `linear`, `exponential` (equal factors in equal times) and `cosine` (half a period, slow at both
    ends) reach `end` there and keep it. `sinusoidal` oscillates from `start` to `end` and back once
    every `period_epochs`, and keeps its value at `end_epoch`.
    """

    start: float
    end: float
    shape: Shape = "linear"
    start_epoch: float = 0.0
    end_epoch: float = 1.0
    period_epochs: float = 1.0

    def check(self) -> None:
        """Raise ValueError for epochs in the wrong order, and ends that the shape cannot have."""
        if self.end_epoch <= self.start_epoch:
            raise ValueError(
                f"end_epoch ({self.end_epoch}) must be later than start_epoch ({self.start_epoch})"
            )
        if self.shape == "exponential" and not self.start * self.end > 0:
            raise ValueError(
                f"an exponential shape needs two values above 0, not {self.start} and {self.end}; "
                "choose linear or cosine"
            )

    def at(self, epochs: float) -> float:
        """The value after a number of epochs of a phase."""
        since = min(max(epochs, self.start_epoch), self.end_epoch) - self.start_epoch
        done = since / (self.end_epoch - self.start_epoch)
        match self.shape:
            case "linear":
                return self.start + (self.end - self.start) * done
            case "exponential":
                return float(self.start * (self.end / self.start) ** done)
            case "cosine":
                return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))
            case "sinusoidal":
                swing = 0.5 * (1 - math.cos(2 * math.pi * since / self.period_epochs))
                return self.start + (self.end - self.start) * swing


def epochs_done(trainer: TrainerView) -> float:
    """Finished epochs of the phase, including the fraction of the current one."""
    return trainer.progress.phase_step / trainer.phase.steps_per_epoch
