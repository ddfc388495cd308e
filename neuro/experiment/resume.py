"""Resume a run in its own directory, with the same results as without the interruption."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from neuro.config.commands import argument
from neuro.errors import CheckpointError, ConfigError
from neuro.experiment.assembly import set_up
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.experiment.fit import Start, fit
from neuro.experiment.initial import initialise
from neuro.io import checkpoint
from neuro.models.weights import load_weights
from neuro.runs.directory import checkpoint_path, load_checkpoint
from neuro.runs.lock import locked
from neuro.runs.metadata import now
from neuro.runs.record import RunRecord
from neuro.runs.resume import Location, changes_of, check_unfinished, locate, run_overrides
from neuro.runtime import processes
from neuro.tracking.jsonl import read_rows

log = logging.getLogger("neuro")


def resume(experiment: Experiment, context: RunContext) -> float | None:
    """Continue the run that `resume` names; returns its objective, also of a completed run."""
    assert experiment.resume is not None
    location = locate(experiment.resume, "resume")
    record = RunRecord(location.directory)
    if not processes.is_helper() and context.directory.resolve() != record.path.resolve():
        raise ConfigError(
            f"hydra.run.dir: a run is resumed in its own directory, {record.path}; leave it out."
        )
    record.check_config_unedited()
    experiment = experiment.changed({"resume": None})
    changes = changes_of(record.config, experiment.plain())
    if record.status == "completed":
        check_unfinished(changes, experiment.phase)
        log.info(
            f"{record.path} is complete; there is nothing left to do. "
            f"{argument('init_from', str(record.path))} starts a new run from it."
        )
        return None if record.report is None else record.report.objective
    # locked before the checkpoint is read: another process might still write a newer one
    with nullcontext() if processes.is_helper() else locked(record.path):
        return _continue(experiment, context, location, changes)


def _continue(
    experiment: Experiment, context: RunContext, location: Location, changes: dict[str, Any]
) -> float:
    """Continue an unfinished run from a checkpoint; the run is locked."""
    record = RunRecord(location.directory)
    fabric, _, parts = set_up(experiment, record.path)
    if location.checkpoint or any((record.path / "checkpoints").glob(f"*{checkpoint.SUFFIX}")):
        if fabric.is_global_zero:
            checkpoint.clean(record.path / "checkpoints")
        path = location.checkpoint or checkpoint_path(record.path, "last")
        state, notes = load_checkpoint(path)
        if "optimizer" not in state:
            raise CheckpointError(
                f"{path} holds averaged weights alone, with which training cannot go on. "
                f"Use {argument('resume', str(record.path))}, or "
                f"{argument('init_from', str(path))} for a new run."
            )
        load_weights(parts.model, state["model"], str(path))
        finished = parts.plan[: state["progress"]["phase_index"]]
        check_unfinished(changes, [phase.name for phase in finished])
        start = Start(state, notes)
    else:
        initialise(experiment, parts.model)
        start = Start(None, (_no_checkpoint(record),))
    meta = _resumed(record, experiment, context, changes)
    context.begin()
    return fit(fabric, experiment, record.path, parts, start, meta)


def _no_checkpoint(record: RunRecord) -> str:
    """Note for the user that a run without checkpoint starts from the beginning."""
    steps = [row["step"] for row in read_rows(record.path)]
    if not steps:
        return "The run has no checkpoint yet; it starts from the beginning."
    return (
        f"The run has no checkpoint, although it has logged {max(steps)} updates: its checkpoints "
        "were deleted or never saved. It starts from the beginning."
    )


def _resumed(
    record: RunRecord, experiment: Experiment, context: RunContext, changes: dict[str, Any]
) -> dict[str, Any]:
    """The run's run_meta.json, with this session added to earlier ones."""
    before = record.meta
    described = context.describe_as(experiment, before["run_id"], run_overrides(context.overrides))
    names = ("started", "repeat", "found_lr")
    kept: dict[str, Any] = {name: before[name] for name in names if name in before}
    sessions = [*before.get("resumed", []), {"time": now(), "changes": changes}]
    return {**described, **kept, "resumed": sessions}
