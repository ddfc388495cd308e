"""Make the report of training: metrics, results of each phase, and continual measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from neuro.config.trainer import Direction
from neuro.learning.continual.metrics import continual_metrics, later_tasks, scalars
from neuro.runs.report import Continual, Criterion, PhaseResult, Report, Scores
from neuro.training.phases import PhasePlan


def tested_tasks(plan: Sequence[PhasePlan]) -> tuple[str, ...]:
    """All tasks that any phase evaluates, in the order of the curriculum."""
    return tuple(dict.fromkeys(task for phase in plan for task in phase.evaluate))


def untrained_tasks(plan: Sequence[PhasePlan]) -> list[str]:
    """Tasks to test before training, for the forward transfer."""
    return later_tasks(tested_tasks(plan), [phase.tasks for phase in plan])


def named(row: Scores) -> dict[str, float]:
    """The metrics of a row named `test/<task>/<metric>`."""
    return {f"test/{task}/{name}": v for task, values in row.items() for name, v in values.items()}


def test_metrics(row: Scores) -> dict[str, float]:
    """The metrics of a row, and their means over the tasks as `test/<metric>`."""
    metrics = named(row)
    for name in next(iter(row.values())):
        metrics[f"test/{name}"] = mean(values[name] for values in row.values())
    return metrics


def make_report(
    plan: Sequence[PhasePlan],
    rows: Sequence[Scores],
    initial: Scores,
    validation: Mapping[str, float],
    directions: Mapping[str, Direction],
    found_lr: Mapping[str, float],
    criteria: Sequence[Criterion] = (),
) -> Report:
    """The report of training, without the fields that the run adds.

    - `rows`: test metrics after each phase; `initial`: those of `untrained_tasks` before training
    - `validation`: metrics of the last validation
    - `directions`: directions of the metrics, the deciding one first
    - `criteria`: those that callbacks judge the run by
    """
    score, *others = directions
    metrics = test_metrics(rows[-1]) | dict(validation)
    tasks = tested_tasks(plan)
    by_metric: dict[str, Continual] = {}
    if len(plan) > 1 and all(set(row) == set(tasks) for row in rows):
        by_metric = {
            name: continual_metrics(
                tasks,
                [[row[task][name] for task in tasks] for row in rows],
                [phase.tasks for phase in plan],
                {task: values[name] for task, values in initial.items()},
                direction,
            )
            for name, direction in directions.items()
        }
        metrics |= scalars(by_metric[score])
        for name in others:
            metrics |= scalars(by_metric[name], name)
    return Report(
        metrics=metrics,
        score=score,
        continual=by_metric.pop(score, None),
        continual_by_metric=by_metric,
        phases=[
            PhaseResult(phase.name, phase.task, row) for phase, row in zip(plan, rows, strict=True)
        ],
        found_lr=dict(found_lr),
        criteria=criteria,
    )


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    numbers = list(values)
    return sum(numbers) / len(numbers)
