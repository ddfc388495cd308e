"""The config of a phase of the curriculum."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt, MinLen
from pydantic import BaseModel, ConfigDict

#: how the samples to replay are chosen; see `neuro/data/replay.py`
ReplayChoice = Literal["uniform", "balanced", "reservoir", "importance"]


class Replay(BaseModel):
    """Replay of samples of earlier phases: `samples` of each, or `capacity` of all together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    samples: Annotated[int, Gt(0)] = 50
    capacity: Annotated[int, Gt(0)] | None = None
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    choice: ReplayChoice = "uniform"


class Carry(BaseModel):
    """What a phase passes to the next one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weights: Literal["best", "last"] = "last"
    optimizer: bool = False
    state: bool = False


class PhaseConfig(BaseModel):
    """The config of one phase."""

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
        """The tasks of the phase, each once."""
        return (self.task,) if isinstance(self.task, str) else tuple(dict.fromkeys(self.task))

    def evaluated(self, curriculum: tuple[str, ...]) -> tuple[str, ...]:
        """The tasks to test after the phase; by default all tasks of the curriculum."""
        return curriculum if isinstance(self.evaluate, str) else self.evaluate
