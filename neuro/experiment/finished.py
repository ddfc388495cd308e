"""Open a finished run: build its objects and load the weights of one of its checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch

from neuro.config.trainer import Stateful
from neuro.data.base import DataSource, TaskSpec
from neuro.errors import ConfigError, nearest
from neuro.experiment.assembly import build_core, build_data, check_target, misfits
from neuro.experiment.devices import pick_device
from neuro.experiment.experiment import Experiment
from neuro.hardware.base import Target
from neuro.learning.objective import Objective
from neuro.learning.sequences.streams import Streams
from neuro.models.allocation import check_sequence_memory
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights
from neuro.runs.directory import check_unused, checkpoint_path, load_checkpoint
from neuro.runs.record import RunRecord
from neuro.runs.resume import differences, locate
from neuro.training.phases import unknown_task
from neuro.training.sequences import streams_for

log = logging.getLogger("neuro")


class Finished(NamedTuple):
    """A finished run's objects with the weights of one of its checkpoints."""

    data: DataSource
    spec: TaskSpec
    model: CoreModel
    objective: Objective
    target: Target
    stateful: Stateful
    tasks: tuple[str, ...]
    checkpoint: Path

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    def streams(self) -> Streams | None:
        """New streams for a test; None if the run tests without carrying state."""
        return streams_for("test", self.model, self.stateful)


def _tasks(record: RunRecord, experiment: Experiment, data: DataSource) -> tuple[str, ...]:
    """The tasks of `open_finished`. ConfigError for one that an override names in vain."""
    *_, (name, last) = experiment.phase.items()
    wanted = last.config.evaluated(experiment.tasks)
    known = tuple(task for task in wanted if task in data.tasks)
    chosen_here = any(differences(record.section("phase"), experiment.plain()["phase"]))
    if chosen_here and len(known) < len(wanted):
        raise ConfigError(
            unknown_task(f"phase.{name}.evaluate", task, data.tasks) + nearest(task, data.tasks)
            for task in wanted
            if task not in known
        )
    return known or data.tasks


def _warn_of_changed_model(record: RunRecord, experiment: Experiment) -> None:
    """Log the keys of the model that differ from those with which the weights were trained."""
    for key, old, new in differences(record.section("model"), experiment.plain()["model"], "model"):
        log.warning("%s: got %s, but the weights were trained with %s.", key, new, old)


def open_finished(experiment: Experiment, directory: Path) -> Finished:
    """Build a finished run's objects and load a checkpoint.

    Tasks are those that the run's last phase evaluates; if the data was replaced by one that has
    none of them, all tasks of the data. ConfigError if parts do not fit together, CheckpointError
    if the weights do not fit the model.

    - `experiment`: that of the run, whose directory is its `run`
    - `directory`: for the results; must not hold a run
    """
    check_unused(directory)
    assert isinstance(experiment.run, str)
    device = pick_device(experiment.hardware)
    record = RunRecord(locate(experiment.run, "run").directory)
    path = checkpoint_path(record.path, experiment.checkpoint)
    if record.status not in ("completed", "unknown"):
        log.warning("%s is %s: its training has not ended.", record.path, record.status)
    data = build_data(experiment)
    _warn_of_changed_model(record, experiment)
    tasks = _tasks(record, experiment, data)
    spec = data.spec(tasks[0])
    model, objective, target = build_core(experiment, spec)
    for task in tasks:
        problems = list(misfits(data.spec(task), spec, model, objective))
        if problems:
            raise ConfigError(problems)
        check_sequence_memory(model, spec.inputs, data.batch_size, data.spec(task).frames)
    check_target(target, model, data, tasks)
    state, notes = load_checkpoint(path)
    for note in notes:
        log.warning(note)
    load_weights(model, state["model"], str(path))
    objective.scale.copy_(state["objective"]["scale"])  # a schedule may have changed it
    model.to(device)
    stateful = experiment.trainer.stateful
    return Finished(data, spec, model, objective, target, stateful, tasks, path)
