"""mode=evaluate: test a checkpoint of a finished run on the host and on a hardware target."""

from __future__ import annotations

import time

from neuro.experiment import summary
from neuro.experiment.context import RunContext
from neuro.experiment.deployment import phase_ends, run_on_target
from neuro.experiment.ensemble import evaluate_ensemble
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import Finished, open_finished
from neuro.hardware.base import Measured
from neuro.learning.evaluation import evaluate as measure
from neuro.runs.directory import keeping_status
from neuro.runs.report import Report
from neuro.training.report import test_metrics


def evaluate(experiment: Experiment, context: RunContext) -> None:
    """Evaluate a finished run's checkpoint on the test splits, or several runs together.

    Writes report.json to a new run.
    """
    if experiment.ensemble is not None:
        evaluate_ensemble(experiment, context)
        return
    directory, meta = context.directory, context.describe(experiment)
    parts = open_finished(experiment, directory)
    phases = {name: phase.config.tasks for name, phase in experiment.phase.items()}
    at_the_end = experiment.checkpoint == "last"
    with keeping_status(directory, experiment.plain(), meta):
        measured = {task: _measure(parts, task) for task in parts.tasks}
        deployed = run_on_target(
            parts.target,
            parts.model,
            parts.data,
            parts.objective,
            directory,
            measured,
            phase_ends(parts.checkpoint.parents[1], phases) if at_the_end else (),
        )
        tested = test_metrics({task: found.metrics for task, found in measured.items()})
        metrics = tested | deployed.metrics
        wanted = experiment.trainer.for_metrics(parts.objective.directions).objective
        report = Report(
            metrics=metrics,
            objective=metrics.get(wanted),
            objective_metric=wanted,
            run_id=meta["run_id"],
            score=parts.objective.main_metric,
            evaluated=str(parts.checkpoint),
            hardware=deployed.report,
        )
        report.save(directory)
    summary.show(report, directory)


def _measure(parts: Finished, task: str) -> Measured:
    """The metrics of a test split, and wall time in milliseconds per sample."""
    started = time.perf_counter()
    loader = parts.data.loader(task, "test")
    found = measure(parts.model, parts.objective, loader, parts.device, parts.streams())
    metrics = found.values()
    return Measured(metrics, (time.perf_counter() - started) / found.samples * 1e3)
