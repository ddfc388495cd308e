"""A phase of the curriculum as it stands in a config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt, MinLen
from pydantic import BaseModel, ConfigDict


class Replay(BaseModel):
    """Samples of earlier phases' tasks that are shown again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    samples: Annotated[int, Gt(0)] = 50
    share: Annotated[float, Gt(0), Lt(1)] = 0.5


class Carry(BaseModel):
    """What a phase hands on when it ends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weights: Literal["best", "last"] = "last"
    optimizer: bool = False
    state: bool = False


class PhaseConfig(BaseModel):
    """One phase as it stands in the config."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    task: str | Annotated[tuple[str, ...], MinLen(1)]
    epochs: Annotated[int, Gt(0)] | None = None
    steps: Annotated[int, Gt(0)] | None = None
    flags: dict[str, Any] = {}
    freeze: tuple[str, ...] = ()
    optimizer: dict[str, Any] = {}
    scheduler: dict[str, Any] = {}
    carry: Carry = Carry()
    replay: Replay | None = None
    evaluate: Annotated[tuple[str, ...], MinLen(1)] | Literal["all"] = "all"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are learned, each once."""
        return (self.task,) if isinstance(self.task, str) else tuple(dict.fromkeys(self.task))

    def evaluated(self, curriculum: tuple[str, ...]) -> tuple[str, ...]:
        """The tasks that are tested after the phase; all those of the curriculum by default."""
        return curriculum if isinstance(self.evaluate, str) else self.evaluate
