"""The `scenario` node of a config: a task of the data divided into splits by classes.

Three scenarios differ in what is known and asked at test time (van de Ven and Tolias 2019, "Three
scenarios for continual learning"):

- class: which class of all splits
- task: which class of the sample's split, whose number is known
- domain: which position within the split's classes; splits share the outputs
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen
from pydantic import BaseModel, ConfigDict

Label = Annotated[int, Ge(0)]
Labels = Annotated[tuple[Label, ...], MinLen(1)]
Kind = Literal["class", "task", "domain"]

#: name of the task with the samples of all splits
JOINT = "joint"
#: `task` of a phase that stands for one phase for each split
EACH = "each"


class ScenarioSettings(BaseModel):
    """The kind of a scenario and its splits; see conf/scenario/base.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Kind = "class"
    task: Annotated[str, MinLen(1)] = "all"
    splits: Annotated[int, Interval(ge=2, le=10_000)] | Annotated[tuple[Labels, ...], MinLen(2)] = 5
    order_seed: Annotated[int, Ge(0)] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits, which are tasks."""
        count = self.splits if isinstance(self.splits, int) else len(self.splits)
        return tuple(f"split_{number}" for number in range(1, count + 1))

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks of the data in this scenario."""
        return (*self.names, JOINT)

    def as_written(self, problems: Iterable[str], phases: Mapping[str, Any]) -> Iterator[str]:
        """Problems of expanded phases, with the names that phases have in the config."""
        written = {f"phase.{new}": f"phase.{name}" for name in phases for new in self._names(name)}
        for problem in problems:
            path = ".".join(problem.split(".", 2)[:2]).partition(":")[0]
            yield written.get(path, path) + problem.removeprefix(path)

    def _names(self, phase: str) -> list[str]:
        """Names of the phases, one for each split, that a phase of a config stands for."""
        return [f"{phase}_{number}" for number in range(1, len(self.names) + 1)]

    def expanded(self, phases: Mapping[str, Any]) -> dict[str, Any]:
        """Phases of a config, with one of each split in place of those with `task: each`.

        `evaluate: all` means all splits, also where a phase learns only some of them.
        """
        found: dict[str, Any] = {}
        for name, phase in phases.items():
            if not isinstance(phase, Mapping):  # reported with the other problems of phases
                found[name] = phase
                continue
            evaluate = phase.get("evaluate", "all")
            node = {**phase, "evaluate": list(self.names) if evaluate == "all" else evaluate}
            if phase.get("task") == EACH:
                pairs = zip(self._names(name), self.names, strict=True)
                found |= {new: {**node, "task": task} for new, task in pairs}
            else:
                found[name] = node
        return found
