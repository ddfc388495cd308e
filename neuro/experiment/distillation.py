"""Distillation: record the outputs or states of a finished run as targets for a student.

The teacher runs once, in evaluation mode, on the student's training inputs without transforms. Its
trajectories are stored beside the made data (`data/teaching.py`), so that training itself does not
need the teacher. Trajectories take the place of the soft labels of Hinton et al. (2015): the
student matches the teacher at every time step.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.config import commands
from neuro.config.build import parse
from neuro.data.base import Batch, DataSource, TaskSpec
from neuro.errors import CheckpointError, ConfigError
from neuro.experiment.devices import pick_device
from neuro.experiment.experiment import Experiment
from neuro.learning.losses.mse import Distillation, layer_records, trajectories
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights
from neuro.runs.directory import checkpoint_path, load_checkpoint
from neuro.runs.record import RunRecord
from neuro.runs.resume import differences, locate
from neuro.runtime import randomness
from neuro.runtime.progress import progress_bar

log = logging.getLogger("neuro")

#: keys of data that do not change what a sample is: amount, location and speed of reading
_HARMLESS = (
    "batch_size",
    "in_memory",
    "root",
    "transforms",
    "limit_train",
    "limit_val",
    "limit_test",
)


class Teacher(NamedTuple):
    """A finished run's model with the weights of a checkpoint; `key` identifies both."""

    model: CoreModel
    checkpoint: Path
    key: str


def attach_teacher(
    experiment: Experiment,
    data: DataSource,
    tasks: Iterable[str],
    model: CoreModel,
    objective: Objective,
) -> None:
    """Add the teacher's trajectories for each sample to the training batches of tasks.

    These are its outputs, or the states of the layers that a distillation term of `objective`
    names. ConfigError if the run is not finished, or does not fit `model`, the data or a task.
    """
    pairs = _layer_pairs(objective)
    device = pick_device(experiment.hardware)
    for task in tasks:
        spec = data.spec(task)
        generators = randomness.capture()
        teacher = open_teacher(experiment, spec)
        randomness.restore(generators)  # building the teacher must not change the student's numbers
        if pairs:
            _compare_sizes(data, task, model, teacher.model, pairs)
            randomness.restore(generators)
        teacher.model.to(device).eval()
        mixtures = experiment.teacher_mixtures
        samples = data.loader(task, "train").samples * (1 + mixtures)
        layers = tuple(pairs.values())
        key = teacher.key + "".join(f"/{name}" for name in layers)
        with _Outputs(teacher, spec, samples, layers) as outputs:
            data.teach(task, "train", key, outputs, mixtures)
        width = data.spec(task).teacher
        if not pairs and width != spec.outputs:
            raise ConfigError(
                f"teacher: {experiment.teacher} has {width} outputs, but task '{task}' of this run "
                f"{spec.outputs}; a student follows each of its teacher's outputs."
            )


def _layer_pairs(objective: Objective) -> Mapping[str, str]:
    """Matched layers, student: teacher; empty for outputs. ConfigError if terms differ."""
    terms = [t for t in objective.named_terms().values() if isinstance(t, Distillation)]
    found = [term.layers for term in terms]
    if any(layers != found[0] for layers in found):
        raise ConfigError(
            "loss: terms of distillation name different layers, but a teacher gives one set of "
            "trajectories. Give one term all pairs in layers."
        )
    return found[0] if found else {}


@torch.no_grad()
def _compare_sizes(
    data: DataSource, task: str, student: CoreModel, teacher: CoreModel, pairs: Mapping[str, str]
) -> None:
    """ConfigError unless the two layers of each pair have the same size."""
    batch = next(iter(data.loader(task, "train").batches())).rows(slice(0, 1))
    sizes = []
    for model, names, owner in (
        (student, pairs.keys(), "loss.distillation.layers: this run's model"),
        (teacher, pairs.values(), "loss.distillation.layers: the teacher"),
    ):
        records = layer_records(model, names, owner)
        training = model.training
        model.eval()
        inputs = batch.sequence().to(model.device)
        output = model(inputs, None, dt_ms=batch.dt_ms, record=records)
        model.train(training)
        sizes.append([output.records[record][0, 0].numel() for record in records])
    for (own, other), one, two in zip(pairs.items(), *sizes, strict=True):
        if one != two:
            raise ConfigError(
                f"loss.distillation.layers: '{own}' of this run has {one} states, but '{other}' of "
                f"the teacher {two}; give pairs of layers of the same size."
            )


def open_teacher(experiment: Experiment, spec: TaskSpec) -> Teacher:
    """The model of the run that `teacher` names, built for a task of the student's data."""
    source = experiment.teacher
    assert source is not None
    location = locate(source, "teacher")
    record = RunRecord(location.directory)
    if record.is_set:
        names = ", ".join(run.path.name for run in record.repeats())
        raise ConfigError(f"teacher: {source} is a set of repeats; name one of them: {names}.")
    if record.status != "completed":
        raise ConfigError(
            f"teacher: {source} is {record.status}, not completed. Finish it with "
            f"{commands.resume(record.path)}, or name another run."
        )
    path = location.checkpoint or checkpoint_path(
        record.path, experiment.teacher_checkpoint, "teacher_checkpoint"
    )
    state, notes = load_checkpoint(path)
    content = record.section("model")
    other = [
        f"{key} ({old!r} and {new!r})"
        for key, old, new in differences(record.section("data"), experiment.data.content, "data")
        if key.partition(".")[2].partition(".")[0] not in _HARMLESS
    ]
    if other:
        notes = (*notes, f"The teacher was trained on data of other settings: {', '.join(other)}.")
    for note in notes:
        log.warning("teacher: %s", note)
    try:
        model = parse(content, CoreModel, "model").build(spec=spec)
        load_weights(model, state["model"], str(path))
    except (ConfigError, CheckpointError) as error:
        raise ConfigError(
            f"teacher: {source} does not fit task '{spec.task}' of this run, with inputs of shape "
            f"{list(spec.inputs.shape)} and {spec.outputs} outputs. {error}"
        ) from error
    identity = json.dumps(content, sort_keys=True).encode() + path.read_bytes()
    return Teacher(model, path, hashlib.sha256(identity).hexdigest())


class _Outputs(ExitStack):
    """Computes the teacher's outputs, or states of its layers, `[B, T, K]` for each batch.

    Shows progress from the first batch on. ConfigError if the teacher's outputs have another number
    of steps or another width than the student's.
    """

    def __init__(self, teacher: Teacher, spec: TaskSpec, samples: int, layers: Sequence[str]):
        super().__init__()
        self._records = layer_records(
            teacher.model, layers, "loss.distillation.layers: the teacher"
        )
        self._teacher = teacher
        self._spec = spec
        self._samples = samples
        self._done = 0

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        if self._done == 0:
            what = f"teacher {self._teacher.checkpoint}, task '{self._spec.task}'"
            self._bar = self.enter_context(progress_bar(what, "samples"))
        model = self._teacher.model
        output = model(
            batch.sequence().to(model.device), None, dt_ms=batch.dt_ms, record=self._records
        )
        values: Tensor = output.values
        expected = batch.steps, self._spec.outputs
        if self._records:
            values = trajectories(output, self._records)
        elif values.shape[1:] != expected:
            raise ConfigError(
                f"teacher: {self._teacher.checkpoint} makes {list(values.shape[1:])} steps and "
                f"outputs of a sample of task '{self._spec.task}', where a student of this run "
                f"makes {list(expected)}."
            )
        self._done += len(values)
        self._bar(self._done, self._samples)
        return values
