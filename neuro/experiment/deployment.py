"""Evaluate a trained model on its hardware target: report, plots, files and continual measures."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from neuro.analysis.plots import style
from neuro.data.base import DataSource, Loader
from neuro.hardware.base import Measured, Target
from neuro.io import checkpoint
from neuro.io.files import replacing
from neuro.learning.continual.metrics import continual_metrics
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights

log = logging.getLogger("neuro")


class Deployed(NamedTuple):
    """The report's `hardware`, and the metrics `hardware/<name>`."""

    report: dict[str, Any]
    metrics: dict[str, float]


class PhaseEnd(NamedTuple):
    """The weights after a phase, and the tasks that it learned."""

    checkpoint: Path
    tasks: tuple[str, ...]


def phase_ends(run: Path, phases: Mapping[str, tuple[str, ...]]) -> list[PhaseEnd]:
    """The ends of a run's phases (name: tasks); empty unless all their checkpoints exist."""
    folder = run / "checkpoints"
    ends = [
        PhaseEnd(folder / f"{name}-final{checkpoint.SUFFIX}", tasks)
        for name, tasks in phases.items()
    ]
    return ends if all(end.checkpoint.is_file() for end in ends) else []


def run_on_target(
    target: Target,
    model: CoreModel,
    data: DataSource,
    objective: Objective,
    directory: Path,
    measured: Mapping[str, Measured],
    ends: Sequence[PhaseEnd] = (),
) -> Deployed:
    """Evaluate a model on a hardware target; `measured` are the host's results by task.

    Plots go to `plots/`, files to `hardware/` in `directory`. Given the `ends` of a curriculum's
    phases, a target with its own arithmetic also reports continual measures of each metric.
    """
    loaders = {task: data.loader(task, "test") for task in measured}
    result = target.evaluate(model, loaders, objective, measured)
    for name, draw in result.figures.items():
        style.save(draw(), directory / "plots" / f"{name}.png")
    for name, write in result.files.items():
        path = directory / "hardware" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write(temporary)
    scores = {task: dict(row) for task, row in result.scores.items()}
    report = {"backend": result.backend, "scores": scores, **result.details}
    if target.own_arithmetic and len(ends) > 1:
        found = _continual(target, model, loaders, objective, ends)
        report["continual"] = found.pop(objective.main_metric)
        report["continual_by_metric"] = found
    return Deployed(report, {f"hardware/{name}": v for name, v in result.metrics.items()})


def _continual(
    target: Target,
    model: CoreModel,
    loaders: Mapping[str, Loader],
    objective: Objective,
    ends: Sequence[PhaseEnd],
) -> dict[str, dict[str, Any]]:
    """Continual measures on the target by metric, from the weights after each phase."""
    model = copy.deepcopy(model)
    rows: list[Mapping[str, Mapping[str, float]]] = []
    for end in ends:
        state, warning = checkpoint.load_or_previous(end.checkpoint)
        if warning:
            log.warning(warning)
        load_weights(model, state["model"], str(end.checkpoint))
        rows.append(target.scores(model, loaders, objective))
    learned = [end.tasks for end in ends]
    return {
        name: asdict(
            continual_metrics(
                list(loaders),
                [[row[task][name] for task in loaders] for row in rows],
                learned,
                direction=metric.direction,
            )
        )
        for name, metric in objective.metrics.items()
    }
