"""mode=evaluate: a checkpoint of a finished run on the test splits and on a hardware target."""

from __future__ import annotations

from neuro.experiment import summary
from neuro.experiment.context import RunContext
from neuro.experiment.deployment import phase_ends, run_on_target
from neuro.experiment.ensemble import evaluate_ensemble
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import open_finished
from neuro.io.files import write_json
from neuro.learning.evaluation import evaluate as measure
from neuro.runs.directory import keeping_status
from neuro.training.report import test_metrics


def evaluate(experiment: Experiment, context: RunContext) -> None:
    """Evaluate a finished run's checkpoint on the test splits, or several runs together.

    report.json goes to a new run.
    """
    if experiment.ensemble is not None:
        evaluate_ensemble(experiment, context)
        return
    directory, meta = context.directory, context.describe(experiment)
    parts = open_finished(experiment, directory)
    phases = {name: phase.config.tasks for name, phase in experiment.phase.items()}
    at_the_end = experiment.checkpoint == "last"
    with keeping_status(directory, experiment.plain(), meta):
        results = {
            task: measure(
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
        wanted = experiment.trainer.for_metrics(parts.objective.directions).objective
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
