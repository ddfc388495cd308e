"""Counters of training, which checkpoints hold and intervals refer to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Position in the curriculum, counted in optimizer updates.

    `batch` and `epoch` are those within the phase. `entered`: the phase has started, so that a
    resumed run does not start it again; `stopped`: reason of an early end of the phase.
    """

    step: int = 0
    phase_index: int = 0
    phase_step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    entered: bool = False
    stopped: str | None = None
