"""Definitions of temporal tasks: which classes they have, and the timing of their sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, MinLen

from neuro.config.types import STRICT

#: up to here 64-bit floats hold every whole number
_MAX_FRAMES = 2**53


@dataclass(frozen=True)
class Timing:
    """Frame rate and duration of a sequence."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    rate_hz: Annotated[float, Gt(0)]
    duration_ms: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        frames = self.rate_hz * self.duration_ms / 1000
        if frames > _MAX_FRAMES:
            raise ValueError(
                f"{self.duration_ms:g} ms at {self.rate_hz:g} Hz are {frames:.3g} frames; at most "
                f"{_MAX_FRAMES} are possible"
            )
        if round(frames) < 1 or abs(frames - round(frames)) > 1e-6 * frames:
            raise ValueError(
                f"{self.duration_ms:g} ms at {self.rate_hz:g} Hz are {frames:g} frames; give a "
                "duration of a whole number of frames"
            )

    @property
    def frames(self) -> int:
        """Time steps of a sequence."""
        return round(self.rate_hz * self.duration_ms / 1000)

    @property
    def dt_ms(self) -> float:
        """Time step."""
        return 1000.0 / self.rate_hz


@dataclass(frozen=True)
class TaskDefinition:
    """A task: its classes and how they are shown.

    With several timings, samples are divided among them at random within each class.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    classes: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]
    timing: str | Annotated[tuple[str, ...], MinLen(1)]

    @property
    def timings(self) -> tuple[str, ...]:
        """Names of the task's timings."""
        return (self.timing,) if isinstance(self.timing, str) else self.timing


TIMINGS = {"fast": Timing(1000.0, 200.0), "slow": Timing(50.0, 400.0)}
TASKS: dict[str, TaskDefinition | None] = {
    "fast": TaskDefinition((0, 1, 2, 3, 4), "fast"),
    "slow": TaskDefinition((5, 6, 7, 8, 9), "slow"),
    "all": TaskDefinition(tuple(range(10)), "slow"),
}
