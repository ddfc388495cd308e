"""Build the objects of an experiment and check that they fit together.

Each node was checked alone when the config was parsed. All combinations that do not fit are raised
in one ConfigError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neuro.config.build import Problems, build_all
from neuro.config.trainer import TrainerSettings
from neuro.data.base import DataSource, InputSpec, TaskSpec
from neuro.data.scenario import ScenarioData
from neuro.errors import ConfigError
from neuro.experiment.devices import make_fabric, pick_device
from neuro.experiment.distillation import attach_teacher
from neuro.experiment.experiment import Experiment
from neuro.experiment.rules import check_metrics, monitored, reported, validations
from neuro.hardware.base import Target
from neuro.learning.objective import Objective
from neuro.learning.paradigms import as_learned
from neuro.learning.sequences.truncation import check_truncation
from neuro.models.allocation import check_sequence_memory, constructed, sizes_of
from neuro.models.base import CoreModel
from neuro.models.capabilities import unmet
from neuro.models.state import misshapen_state
from neuro.runtime import processes
from neuro.runtime.randomness import seed_everything
from neuro.tracking.base import Tracker
from neuro.training.callbacks.base import Callback, Setup
from neuro.training.callbacks.checks import callback_notes, check_callbacks, inapplicable
from neuro.training.phases import PhasePlan, resolve
from neuro.training.sequences import check_streams

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Parts(NamedTuple):
    """The objects of an experiment, built and checked against each other.

    - `reported`: names of the metrics in the report
    - `notes`: settings that have no effect here, which are logged before training
    """

    data: DataSource
    spec: TaskSpec
    model: CoreModel
    objective: Objective
    settings: TrainerSettings
    plan: tuple[PhasePlan, ...]
    callbacks: dict[str, Callback]
    trackers: dict[str, Tracker]
    target: Target
    reported: Sequence[str]
    notes: tuple[str, ...] = ()


def set_up(experiment: Experiment, directory: Path) -> tuple[Fabric, Path, Parts]:
    """Fabric, the run directory of the main process, and the experiment's objects.

    Fabric is made last where possible, so that errors of the config appear before its slow import.
    Under torchrun the first process of a machine builds its objects alone, because it prepares the
    data that the others read.
    """
    hardware, scaler = experiment.hardware, experiment.trainer.scaler
    if processes.started_by_torchrun():
        fabric = make_fabric(hardware, scaler)
        directory = processes.join(fabric, directory)
        with fabric.rank_zero_first(local=True):
            return fabric, directory, assemble(experiment, fabric.global_rank, fabric.world_size)
    pick_device(hardware)  # its errors come before data is prepared
    parts = assemble(experiment, 0, hardware.count)
    return make_fabric(hardware, scaler), directory, parts


def assemble(experiment: Experiment, rank: int = 0, world_size: int = 1) -> Parts:
    """Build an experiment's objects. ConfigError lists what does not fit together."""
    data = build_data(experiment)
    tasks = experiment.tasks
    spec = data.spec(tasks[0])
    model, objective, target = build_core(experiment, spec)
    if experiment.teacher is not None:
        attach_teacher(experiment, data, tasks, model, objective)
    callbacks = build_all(experiment.callbacks)
    left_out = inapplicable(callbacks, model)
    callbacks = {name: made for name, made in callbacks.items() if name not in left_out}
    trackers = build_all(experiment.tracking)
    settings = experiment.trainer.for_metrics(objective.directions)
    for task in tasks:
        frames = data.spec(task).frames
        if settings.tbptt is not None:
            frames = min(frames, settings.tbptt.length)
        check_sequence_memory(model, spec.inputs, data.batch_size, frames)
    plan = resolve(
        experiment.phase,
        data=data,
        model=model,
        accumulate=settings.accumulate,
        seed=experiment.seed,
        rank=rank,
        world_size=world_size,
    )
    validated = monitored(settings, plan, validations(callbacks.values()))
    setup = Setup(model, data, objective, plan, settings, validated, callbacks)
    produced = reported(setup, target)
    problems = Problems(check_metrics(setup, produced))
    for tracker in trackers.values():
        problems += tracker.problems(experiment)
    if settings.tbptt is not None:
        problems += check_truncation(objective, settings.tbptt, map(data.spec, tasks))
    problems += check_streams(settings.stateful, plan, data)
    problems += _without_phases(objective, plan)
    scenario = experiment.scenario
    if scenario is not None and scenario.kind == "task" and target.own_arithmetic:
        problems.append(
            f"scenario.kind=task: {type(target).__name__} decides among all outputs; use "
            "hardware=auto, or scenario=class_incremental."
        )
    if settings.stateful.test and target.own_arithmetic:
        problems.append(
            f"trainer.stateful.test: {type(target).__name__} starts every test sample from the "
            "initial state; set trainer.stateful.test=false."
        )
    problems += misshapen_state(model)
    problems += check_callbacks(setup)
    problems += _unmet(target, model)
    evaluated = [task for phase in plan for task in phase.evaluate]
    for task in dict.fromkeys([*tasks, *evaluated]):
        problems += misfits(data.spec(task), spec, model, objective)
    problems.raise_all()
    check_target(target, model, data, plan[-1].evaluate)
    notes = (*left_out.values(), *callback_notes(setup))
    return Parts(
        data, spec, model, objective, settings, plan, callbacks, trackers, target, produced, notes
    )


def _without_phases(objective: Objective, plan: Sequence[PhasePlan]) -> Iterator[str]:
    """Problems of terms that protect earlier phases, where there is only one."""
    if len(plan) == 1:
        for name, term in objective.named_terms().items():
            if term.needs_earlier_phase:
                yield (
                    f"loss.{name}: {type(term).__name__} protects what earlier phases have learned,"
                    f" and there is one phase, '{plan[0].name}'. Give several, as with "
                    "scenario=class_incremental phase=splits, or leave it out."
                )


def build_data(experiment: Experiment) -> DataSource:
    """The prepared data, with targets as the paradigm defines them."""
    data = experiment.data.instance
    if experiment.scenario is not None:
        data = ScenarioData(data, experiment.scenario)
    data.prepare()
    return as_learned(data, experiment.paradigm)


def build_core(experiment: Experiment, spec: TaskSpec) -> tuple[CoreModel, Objective, Target]:
    """The model, initialised from the experiment's seed, its objective, and the hardware target."""
    seed_everything(experiment.seed)
    sizes = sizes_of(experiment.model.content, experiment.model.path)
    model = constructed(partial(experiment.model.build, spec=spec), sizes)
    terms = build_all(experiment.loss)
    metrics = {name: node.build(spec=spec) for name, node in experiment.metric.items()}
    objective = experiment.objective.build(terms=terms, target=spec.targets.kind, metrics=metrics)
    return model, objective, experiment.target.build()


def misfits(
    spec: TaskSpec, built_for: TaskSpec, model: CoreModel, objective: Objective
) -> Iterator[str]:
    """Problems of combining a task with the model and the objective, built for another task."""
    if spec.inputs != built_for.inputs:
        yield (
            f"data: task '{spec.task}' has inputs of {_described(spec.inputs)}, but task "
            f"'{built_for.task}' of {_described(built_for.inputs)}; one model cannot learn both."
        )
    if spec.targets != built_for.targets:
        yield (
            f"data: task '{spec.task}' has {spec.outputs} outputs for targets of kind "
            f"'{spec.targets.kind}' and shape {list(spec.targets.shape)}, but task "
            f"'{built_for.task}' {built_for.outputs} for '{built_for.targets.kind}' and shape "
            f"{list(built_for.targets.shape)}; one model cannot learn both."
        )
    if spec.has_time_step != built_for.has_time_step:
        yield (
            f"data: task '{spec.task}' has {spec.described_timings}, but task '{built_for.task}' "
            f"{built_for.described_timings}; one model needs a time step for all or for none."
        )
    try:
        objective.check(model, spec)
    except ConfigError as error:
        yield from error.problems


def _described(inputs: InputSpec) -> str:
    """Inputs of one step in words, for messages."""
    symbols = "" if inputs.vocabulary is None else f", {inputs.vocabulary} symbols"
    return f"shape {list(inputs.shape)} ({inputs.dtype}{symbols})"


def check_target(target: Target, model: CoreModel, data: DataSource, tasks: Iterable[str]) -> None:
    """Raise ConfigError or ExportError if the target cannot evaluate this model on these tasks."""
    if problems := _unmet(target, model):
        raise ConfigError(problems)
    specs = {task: data.spec(task) for task in tasks}
    target.check(model, specs, {task: data.loader(task, "test").samples for task in specs})


def _unmet(target: Target, model: CoreModel) -> list[str]:
    """Capabilities that the target needs and the model lacks."""
    problems = unmet(model, target.requires, f"hardware: {type(target).__name__}")
    advice = "Use hardware=auto, or a spiking model such as model=ltgate."
    return [f"{problem} {advice}" for problem in problems]
