"""Values that change over the epochs of a phase: from a start to an end, and held outside.

They are functions of where training is, so a resumed run needs no state to go on with them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge

from neuro.training.callbacks.base import TrainerView

Shape = Literal["linear", "exponential", "cosine"]
Epoch = Annotated[float, Ge(0)]


def between(shape: Shape, start: float, end: float, done: float) -> float:
    """The value when the share `done` of the way is behind.

    `exponential` changes by the same factor in equal times, so neither end may be 0; `cosine` is
    half a period, slow at both ends.
    """
    match shape:
        case "linear":
            return start + (end - start) * done
        case "exponential":
            return float(start * (end / start) ** done)
        case _:
            return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def share_done(trainer: TrainerView, start_epoch: float, end_epoch: float) -> float:
    """How much of the way between two epochs of the phase is behind, from 0 to 1."""
    return min(max((epochs_done(trainer) - start_epoch) / (end_epoch - start_epoch), 0.0), 1.0)


def epochs_done(trainer: TrainerView) -> float:
    """Epochs of the phase that are behind, with the part of the current one."""
    return trainer.progress.phase_step / trainer.phase.steps_per_epoch


def check_epochs(start_epoch: float, end_epoch: float) -> None:
    """ValueError unless the end is later than the start."""
    if end_epoch <= start_epoch:
        raise ValueError(f"end_epoch ({end_epoch}) must be later than start_epoch ({start_epoch})")


def check_shape(shape: str, start: float, end: float) -> None:
    """ValueError if a value of 0 would be reached by a constant factor."""
    if shape == "exponential" and not start * end > 0:
        raise ValueError(
            f"an exponential shape needs two values above 0, not {start} and {end}; "
            "choose linear or cosine"
        )
