"""What can be done with a finished run: evaluate a checkpoint again, and write its predictions."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuro.data.base import DataSource, TaskSpec
from neuro.data.uses import TargetKind
from neuro.errors import ConfigError
from neuro.experiment import summary
from neuro.experiment.assembly import (
    build_core,
    build_data,
    check_target,
    learned_tasks,
    misfits,
    settings_of,
)
from neuro.experiment.deployment import phase_ends, run_on_target
from neuro.experiment.devices import make_fabric
from neuro.hardware.base import Target
from neuro.io.files import replacing, write_json
from neuro.learning.evaluation import Predictions, evaluate, predict
from neuro.learning.metrics import CLASS_KINDS
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights
from neuro.runs.directory import check_unused, checkpoint_path, keeping_status, load_checkpoint
from neuro.runs.resume import locate
from neuro.training.report import test_metrics

log = logging.getLogger("neuro")

Config = dict[str, Any]


class Finished(NamedTuple):
    """A finished run's objects with the weights of one of its checkpoints."""

    data: DataSource
    spec: TaskSpec
    model: CoreModel
    objective: Objective
    target: Target
    tasks: tuple[str, ...]
    checkpoint: Path

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def open_finished(config: Config, directory: Path) -> Finished:
    """Build a finished run's objects; its curriculum's tasks, or all of other data's."""
    check_unused(directory)
    fabric = make_fabric(config["hardware"])
    path = checkpoint_path(locate(config["run"], "run").directory, config["checkpoint"])
    data = build_data(config)
    last = list(config["phase"].values())[-1].get("evaluate", "all")
    curriculum = learned_tasks(config) if last == "all" else last
    tasks = tuple(task for task in curriculum if task in data.tasks) or data.tasks
    spec = data.spec(tasks[0])
    model, objective, target = build_core(config, spec)
    for task in tasks:
        problems = list(misfits(data.spec(task), spec, model, objective))
        if problems:
            raise ConfigError(problems)
    check_target(target, model, data, tasks)
    state, notes = load_checkpoint(path)
    for note in notes:
        log.warning(note)
    load_weights(model, state["model"], str(path))
    objective.scale.copy_(state["objective"]["scale"])  # a schedule may have changed it
    model.to(fabric.device)
    return Finished(data, spec, model, objective, target, tasks, path)


def evaluate_run(config: Config, directory: Path, meta: dict[str, Any]) -> None:
    """Evaluate a finished run's checkpoint on the test splits; report.json goes to a new run."""
    parts = open_finished(config, directory)
    phases = {name: learned_tasks({"phase": {name: p}}) for name, p in config["phase"].items()}
    at_the_end = config["checkpoint"] == "last"
    with keeping_status(directory, config, meta):
        results = {
            task: evaluate(
                parts.model, parts.objective, parts.data.loader(task, "test"), parts.device
            ).values()
            for task in parts.tasks
        }
        deployed = run_on_target(
            parts.target,
            parts.model,
            parts.data,
            parts.objective,
            parts.tasks,
            directory,
            phase_ends(parts.checkpoint.parents[1], phases) if at_the_end else (),
        )
        metrics = test_metrics(results) | deployed.metrics
        wanted = settings_of(config, parts.objective).objective
        report = {
            "objective": metrics.get(wanted),
            "objective_metric": wanted,
            "run_id": meta["run_id"],
            "evaluated": str(parts.checkpoint),
            "metrics": metrics,
            "score": parts.objective.main_metric,
            "hardware": deployed.report,
        }
        write_json(directory / "report.json", report)
    summary.show(report, directory)


def predict_run(config: Config, directory: Path, meta: dict[str, Any]) -> None:
    """Write outputs and decisions for every test sample, or step of it, to predictions.csv."""
    parts = open_finished(config, directory)
    target = directory / "predictions.csv"
    with (
        keeping_status(directory, config, meta),
        replacing(target) as temporary,
        open(temporary, "w", newline="") as handle,
    ):
        writer = csv.writer(handle)
        place = _PLACES.get(parts.spec.targets.kind)
        writer.writerow(["task", *_columns(parts.spec, place)])
        for task in parts.tasks:
            loader = parts.data.loader(task, "test")
            found = predict(parts.model, parts.objective, loader, parts.device)
            writer.writerows([task, *row] for row in _rows(found, place is not None))
    log.info("Predictions of %s: %s", parts.checkpoint, target)


#: what a sample has several targets of, by the kind of targets
_PLACES: dict[TargetKind, str] = {
    "class_sequence": "step",
    "value_sequence": "step",
    "token": "step",
    "class_map": "place",
}


def _columns(spec: TaskSpec, place: str | None) -> list[str]:
    """Columns of `_rows`: label, decision and scores of a class, or target and predicted values."""
    where = ["index"] if place is None else ["index", place]
    outputs = range(spec.outputs)
    if spec.targets.kind in CLASS_KINDS:
        return [*where, "label", "prediction", *(f"score_{k}" for k in outputs)]
    return [*where, *(f"target_{k}" for k in outputs), *(f"prediction_{k}" for k in outputs)]


def _rows(found: Predictions, by_place: bool) -> Iterator[list[float]]:
    """One row per sample, or per step or place of each."""
    classes = found.decisions.dtype == torch.int64
    places = prod(found.targets.shape[1 : None if classes else 2]) if by_place else 1
    shown = (found.targets, found.decisions, *((found.outputs,) if classes else ()))
    parts = [x.reshape(len(found.targets) * places, -1).tolist() for x in shown]
    for i, values in enumerate(zip(*parts, strict=True)):
        where = divmod(i, places) if by_place else (i,)
        yield [*where, *(number for part in values for number in part)]
