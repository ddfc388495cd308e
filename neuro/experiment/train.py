"""mode=train: one run or a set of repeats, new or resumed."""

from __future__ import annotations

from neuro.errors import ConfigError
from neuro.experiment.assembly import set_up
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.experiment.fit import Start, fit
from neuro.experiment.initial import initialise, settled
from neuro.experiment.repeats import run_repeats
from neuro.experiment.resume import resume
from neuro.runs.directory import check_unused
from neuro.runs.record import RunRecord
from neuro.runs.resume import locate
from neuro.runtime import processes


def train(experiment: Experiment, context: RunContext) -> float | None:
    """Train one run or `repeats` of them, or resume one; returns the objective."""
    record = None
    if experiment.resume is not None:
        record = RunRecord(locate(experiment.resume, "resume").directory)
    if record is not None and not record.is_set and experiment.repeats > 1:
        raise ConfigError(
            f"repeats: {experiment.resume} is a single run; start a set of its own with repeats="
            f"{experiment.repeats} and without resume."
        )
    if experiment.repeats > 1 or (record is not None and record.is_set):
        return run_repeats(settled(experiment), record, context, _train_one)
    return _train_one(experiment, context)


def _train_one(experiment: Experiment, context: RunContext) -> float | None:
    """Start a run, or resume the one that `resume` names."""
    if experiment.resume is not None:
        return resume(experiment, context)
    experiment = settled(experiment)
    if not processes.is_helper():
        check_unused(context.directory)
    fabric, directory, parts = set_up(experiment, context.directory)
    notes = initialise(experiment, parts.model)
    measured = {f"data.{key}": value for key, value in parts.data.measured().items()}
    experiment = experiment.changed({"group": experiment.group or context.group, **measured})
    meta = context.describe(experiment)
    context.begin()
    return fit(fabric, experiment, directory, parts, Start(None, notes), meta)
