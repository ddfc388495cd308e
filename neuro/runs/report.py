"""The results of a run, and report.json, which is read and written only here.

Training, evaluations, ensembles and sets of repeats share one format; parts that do not apply are
left out of the file. Fractions are 0 to 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from neuro.errors import CheckpointError
from neuro.io.files import read_json, write_json

T = TypeVar("T")

#: name of the file inside a run directory
FILE = "report.json"

#: metrics by task
Scores = Mapping[str, Mapping[str, float]]

#: keys that are in every report
_ALWAYS = ("objective", "objective_metric", "run_id", "metrics")


@dataclass(frozen=True)
class Continual:
    """Continual-learning measures of one metric over a curriculum.

    `matrix[i][j]` is the metric on task j after phase i, `initial` the metric on each task before
    training. `acc` is the mean of the last row, `bwt` and `fwt` are backward and forward transfer
    (Lopez-Paz and Ranzato 2017), `learning_acc` the mean metric of each task after it was learned,
    `recency` the advantage of the last phase's tasks over earlier ones. Measures that do not apply
    are None.
    """

    tasks: Sequence[str]
    matrix: Sequence[Sequence[float]]
    initial: Mapping[str, float] | None = None
    acc: float | None = None
    bwt: float | None = None
    fwt: float | None = None
    forgetting: float | None = None
    learning_acc: float | None = None
    recency: float | None = None


@dataclass(frozen=True)
class PhaseResult:
    """A phase of training: its name, its tasks joined by `+`, and the test metrics after it."""

    name: str
    task: str
    test: Scores


@dataclass(frozen=True)
class MemberResult:
    """A member of an ensemble and the metrics of its own predictions."""

    run: str
    metrics: Mapping[str, float]

    @property
    def tested(self) -> Scores:
        """The metrics of the test splits by task."""
        return _by_task(self.metrics)


@dataclass(frozen=True)
class RepeatResult:
    """A run of a set of repeats: its subdirectory, seed and objective."""

    directory: str
    seed: int
    objective: float | None


@dataclass(frozen=True)
class Criterion:
    """A criterion of a run: `value` must be related to `limit` as `relation` (<, <= or >) says."""

    name: str
    value: float
    relation: str
    limit: float
    met: bool

    @classmethod
    def of(cls, name: str, value: float, relation: str, limit: float) -> Criterion:
        """The criterion, met or not; NaN meets none."""
        relations = {"<": operator.lt, "<=": operator.le, ">": operator.gt}
        return cls(name, value, relation, limit, relations[relation](value, limit))

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.4g} {self.relation} {self.limit:.4g}"


@dataclass(frozen=True)
class Report:
    """The results of a run.

    - `objective`: value of the metric `objective_metric`; None if it was not measured
    - `metrics`: every number that runs are compared by, NaN where it is not finite
    - `score`: name of the deciding metric, as in `phases` and after `test/`
    - `continual`: measures of the score over a curriculum; `continual_by_metric` of other metrics
    - `found_lr`: learning rates of phases with lr=auto
    - `hardware`: backend that evaluated the model and its details, as plain JSON values
    - `evaluated`: checkpoints that were evaluated; `ensemble`: how their outputs are combined
    - `aggregate`: of a set, mean, standard deviation and interval of each metric over its repeats
    - `criteria`: those that callbacks judge the run by (`callbacks.verdict`)
    - `seconds`: duration of training. Equal runs have equal reports apart from this value,
      `hardware.ms_per_sample` and `run_id`
    """

    metrics: Mapping[str, float]
    objective: float | None = None
    objective_metric: str = ""
    run_id: str = ""
    score: str = ""
    continual: Continual | None = None
    continual_by_metric: Mapping[str, Continual] = field(default_factory=dict)
    phases: Sequence[PhaseResult] = ()
    found_lr: Mapping[str, float] = field(default_factory=dict)
    evaluated: str | Sequence[str] | None = None
    ensemble: str | None = None
    members: Sequence[MemberResult] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    aggregate: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    repeats: Sequence[RepeatResult] = ()
    criteria: Sequence[Criterion] = ()
    seconds: float | None = None

    @property
    def tested(self) -> Scores:
        """The metrics of the test splits by task, as `metrics` has them."""
        return _by_task(self.metrics)

    @property
    def continual_of(self) -> dict[str, Continual]:
        """Continual measures by metric, the score first; empty without a curriculum."""
        if self.continual is None:
            return {}
        return {self.score: self.continual, **self.continual_by_metric}

    def save(self, directory: Path) -> None:
        """Write report.json atomically; numbers that are not finite become null."""
        content = asdict(self)
        empty: tuple[Any, ...] = (None, "", (), [], {})
        kept = {key: v for key, v in content.items() if key in _ALWAYS or v not in empty}
        write_json(directory / FILE, kept)

    @classmethod
    def load(cls, directory: Path) -> Report:
        """Read the report of a run directory, also one by an older version of neuro.

        CheckpointError if it is missing or damaged.
        """
        path = directory / FILE
        content = read_json(path)
        try:
            for name in ("objective", "seconds"):
                _number(content.get(name))
            return _part(cls, {**content, **_parts(content)})
        except (TypeError, AttributeError) as error:  # a part is not a mapping, or lacks a key
            raise CheckpointError(f"{path}: not a report ({error}).") from error


def _parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a report that have classes of their own, and its metrics."""
    continual = content.get("continual")
    by_metric = content.get("continual_by_metric") or {}
    lists = {
        "phases": PhaseResult,
        "members": MemberResult,
        "repeats": RepeatResult,
        "criteria": Criterion,
    }
    return {
        "metrics": {name: _number(value) for name, value in content.get("metrics", {}).items()},
        # older reports name no score: accuracy was the only metric
        "score": content.get("score") or ("accuracy" if continual else ""),
        "continual": None if continual is None else _part(Continual, continual),
        "continual_by_metric": {name: _part(Continual, x) for name, x in by_metric.items()},
        **{key: [_part(cls, x) for x in content.get(key, ())] for key, cls in lists.items()},
    }


def _part(cls: type[T], content: Mapping[str, Any]) -> T:
    """Make a dataclass; keys that it lacks, which other versions may have written, are ignored."""
    names = {part.name for part in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in content.items() if name in names})


def _by_task(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The values named `test/<task>/<metric>`, by task and metric."""
    tasks: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "test":
            tasks.setdefault(parts[1], {})[parts[2]] = value
    return tasks


def _number(value: object) -> float:
    """A number from JSON, where NaN is written as null. TypeError for other values."""
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return math.nan if value is None else value
