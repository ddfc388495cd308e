"""Where training is: the counters that a checkpoint holds and that intervals are counted in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Position in the curriculum, counted in optimizer updates.

    `batch` and `epoch` are within the phase. `entered`: the phase has started, and a resume must
    not start it again; `stopped`: the reason why it ends before its time.
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
