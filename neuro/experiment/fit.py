"""Train in one process or several, for new and resumed runs.

The parent process keeps the run directory and prints the results; `_work` runs in each process that
a parallel strategy starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuro import models
from neuro.errors import CriteriaNotMet, Interrupted
from neuro.experiment import summary
from neuro.experiment.assembly import Parts, assemble
from neuro.experiment.deployment import phase_ends, run_on_target
from neuro.experiment.experiment import Experiment
from neuro.experiment.initial import initialise
from neuro.hardware.base import Measured
from neuro.runs.directory import keeping_status
from neuro.runs.report import Report
from neuro.runtime import processes
from neuro.runtime.memory import keep_freed_memory
from neuro.runtime.signals import noting_signals
from neuro.tracking.base import RunInfo, Trackers
from neuro.tracking.jsonl import JsonlTracker
from neuro.tracking.meta import MetaTracker

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger("neuro")

#: file of the trained model, which can be loaded without the run
MODEL = "model.safetensors"


class Start(NamedTuple):
    """A checkpoint's state to continue from (None: a new start), and notes for the user."""

    state: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def fit(
    fabric: Fabric,
    experiment: Experiment,
    directory: Path,
    parts: Parts,
    start: Start,
    meta: dict[str, Any],
) -> float:
    """Train, evaluate on the target, and write and print the report; returns the objective.

    Raises CriteriaNotMet for a completed run that does not meet the criteria of its callbacks.
    """
    started = time.monotonic()
    with (
        keeping_status(directory, experiment.plain(), meta)
        if fabric.is_global_zero
        else nullcontext()
    ):
        for note in (*start.notes, *parts.notes):
            log.warning(note)
        log.info("%s", _describe_devices(fabric, parts))
        built = None if processes.are_spawned(fabric) else parts
        report: Report = processes.launch(
            fabric, _work, experiment, directory, meta, start.state, built
        )
        objective = report.metrics[parts.settings.objective]
        report = replace(
            report,
            objective=objective,
            objective_metric=parts.settings.objective,
            run_id=meta["run_id"],
            seconds=time.monotonic() - started,
        )
        if fabric.is_global_zero:
            report.save(directory)
    if fabric.is_global_zero:
        summary.show(report, directory)
        if missed := [str(criterion) for criterion in report.criteria if not criterion.met]:
            raise CriteriaNotMet(f"Criteria that the run does not meet: {'; '.join(missed)}.")
    return float(objective)


def _work(
    fabric: Fabric,
    experiment: Experiment,
    directory: Path,
    meta: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    parts: Parts | None,
) -> Report:
    """One process of a training run: build what a spawned process lacks, then fit."""
    from neuro.training.callbacks.run_state import RunStateWriter
    from neuro.training.trainer import Trainer  # it imports Fabric

    keep_freed_memory()
    if parts is None:
        parts = assemble(experiment, fabric.global_rank, fabric.world_size)
        if state is None:
            initialise(experiment, parts.model)
    jsonl = JsonlTracker()
    own = [jsonl, MetaTracker(), *parts.trackers.values()]
    tracker = Trackers(own if fabric.is_global_zero else [])
    info = RunInfo(
        directory=directory,
        run_id=meta["run_id"],
        name=_display_name(experiment.name, directory, meta),
        project=experiment.project,
        group=experiment.group,
        tags=experiment.tags,
        resumed="resumed" in meta,
        kept_bytes=state["metrics_length"] if state is not None else 0,
    )
    with noting_signals(quiet=not fabric.is_global_zero) as interrupted:
        tracker.start(info, experiment.plain())
        trainer = Trainer(
            fabric,
            parts.model,
            parts.data,
            parts.objective,
            parts.plan,
            parts.settings,
            {**parts.callbacks, "run_state": RunStateWriter()},
            tracker,
            directory,
            pretrained=experiment.init_from is not None,
            metrics_length=jsonl.length,
            interrupted=interrupted,
            compiled=experiment.hardware.compile_,
        )
        try:
            report = trainer.fit(state)
            if fabric.is_global_zero:
                node = experiment.model.content
                models.save(directory / MODEL, trainer.model, node, parts.spec)
                measured = {
                    task: Measured(metrics, trainer.ms_per_sample.get(task))
                    for task, metrics in report.phases[-1].test.items()
                }
                ends = phase_ends(directory, {phase.name: phase.tasks for phase in parts.plan})
                deployed = run_on_target(
                    parts.target,
                    trainer.model,
                    parts.data,
                    parts.objective,
                    directory,
                    measured,
                    ends,
                )
                metrics = {**report.metrics, **deployed.metrics}
                report = replace(report, metrics=metrics, hardware=deployed.report)
            tracker.summary(report.metrics)
            tracker.finish("completed")
        except BaseException as error:
            stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
            tracker.finish("interrupted" if stopped else "failed")
            raise
    return report


def _display_name(name: str, directory: Path, meta: Mapping[str, Any]) -> str:
    """The run's name in trackers, with job and repeat to distinguish the runs of a sweep."""
    parts = [directory.name] if directory.name != meta["run_id"] else []
    if "repeat" in meta and directory.parent.name.isdigit():  # repeats within a job of a sweep
        parts.insert(0, directory.parent.name)
    return "-".join([name, *parts])


def _describe_devices(fabric: Fabric, parts: Parts) -> str:
    """Devices of training and the number of samples of an update, for the log."""
    size, accumulate = parts.data.batch_size, parts.settings.accumulate
    devices = f"{fabric.world_size} x " if fabric.world_size > 1 else ""
    total = f" x {accumulate} micro-batches = {size * accumulate}" if accumulate > 1 else ""
    return f"Using device: {devices}{fabric.device}, {size}{total} samples per update"
