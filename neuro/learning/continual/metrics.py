"""Measures of continual learning from a matrix of scores.

`matrix[i][j]` is the score on task j after phase i, `initial[task]` that before training: an
accuracy as a fraction, or an error, of which less is better. Definitions follow Lopez-Paz and
Ranzato 2017 (ACC, BWT, FWT), Chaudhry et al. 2018 (forgetting), Riemer et al. 2019 (learning
accuracy); a recency bias is described by Masana et al. 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neuro.config.trainer import Direction
from neuro.runs.report import Continual


def continual_metrics(
    tasks: Sequence[str],
    matrix: Sequence[Sequence[float]],
    learned: Sequence[Sequence[str]],
    initial: Mapping[str, float] | None = None,
    direction: Direction = "max",
) -> Continual:
    """ACC, BWT, FWT and forgetting of a curriculum.

    `learned[i]` names the tasks trained in phase i. A task counts as learned from the first phase
    that trains it. Measures are None if they need a second task, or initial scores of the tasks
    named by `later_tasks`, that are not there. ACC is the mean final score, `learning_acc` the mean
    score of each task after the phase that learns it; the others count improvement as positive,
    also of an error (`direction` min): a transfer above 0 and a forgetting below 0 are
    improvements. `recency` is by how much the last phase's tasks are better than earlier ones.
    """
    sign = 1.0 if direction == "max" else -1.0
    first = _first_phases(tasks, learned)
    last = len(matrix) - 1
    column = {task: j for j, task in enumerate(tasks)}
    earlier = [task for task, i in first.items() if i < last]
    later = later_tasks(tasks, learned)
    newest = [task for task, i in first.items() if i == last]
    final = [matrix[last][column[task]] for task in first]
    gained = [[sign * score for score in row] for row in matrix]
    backward = [gained[last][column[t]] - gained[first[t]][column[t]] for t in earlier]
    drops = [
        max(row[column[t]] for row in gained[first[t] : last]) - gained[last][column[t]]
        for t in earlier
    ]
    forward = (
        [gained[first[t] - 1][column[t]] - sign * initial[t] for t in later] if initial else []
    )
    return Continual(
        tasks=list(tasks),
        matrix=[list(row) for row in matrix],
        initial=dict(initial) if initial else None,
        acc=_mean(final),
        bwt=_mean(backward),
        fwt=_mean(forward),
        forgetting=_mean(drops),
        learning_acc=_mean([matrix[i][column[task]] for task, i in first.items()]),
        recency=_difference(
            [gained[last][column[t]] for t in newest], [gained[last][column[t]] for t in earlier]
        ),
    )


def later_tasks(tasks: Sequence[str], learned: Sequence[Sequence[str]]) -> list[str]:
    """Tasks that are first learned after the first phase, which have a forward transfer."""
    return [task for task, i in _first_phases(tasks, learned).items() if i > 0]


def _first_phases(tasks: Sequence[str], learned: Sequence[Sequence[str]]) -> dict[str, int]:
    """Index of the phase that trains each task first; tasks that are never trained are left out."""
    phases = ((task, [i for i, names in enumerate(learned) if task in names]) for task in tasks)
    return {task: found[0] for task, found in phases if found}


def scalars(measures: Continual, metric: str | None = None) -> dict[str, float]:
    """The measures that apply, named `continual/<name>` or `continual/<metric>/<name>`."""
    prefix = "continual" if metric is None else f"continual/{metric}"
    found = {
        "acc": measures.acc,
        "bwt": measures.bwt,
        "fwt": measures.fwt,
        "forgetting": measures.forgetting,
        "learning_acc": measures.learning_acc,
        "recency": measures.recency,
    }
    return {f"{prefix}/{name}": value for name, value in found.items() if value is not None}


def _difference(new: Sequence[float], old: Sequence[float]) -> float | None:
    """The difference of two means; None if one has no values."""
    return sum(new) / len(new) - sum(old) / len(old) if new and old else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
