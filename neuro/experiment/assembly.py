"""From a config to the objects of an experiment, checked against each other.

Nothing is built before every node fits its contract; what does not fit together is told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from neuro.config.build import build, build_mapping
from neuro.data.base import DataSource, InputSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.experiment.distillation import attach_teacher
from neuro.experiment.schema import check_metrics, monitored, problems_of, target_node, validations
from neuro.hardware.base import Target
from neuro.learning.metrics import Metric
from neuro.learning.objective import Objective, Term
from neuro.learning.paradigms import as_learned
from neuro.learning.sequences.truncation import check_truncation
from neuro.models.base import CoreModel
from neuro.models.capabilities import unmet
from neuro.runtime.randomness import seed_everything
from neuro.tracking.base import Tracker
from neuro.training.callbacks.base import Callback, Setup, check_callbacks
from neuro.training.phases import PhasePlan, check_phases, resolve
from neuro.training.settings import TrainerSettings

Config = dict[str, Any]


class Parts(NamedTuple):
    """The objects of an experiment, built and checked against each other."""

    data: DataSource
    spec: TaskSpec
    model: CoreModel
    objective: Objective
    settings: TrainerSettings
    plan: tuple[PhasePlan, ...]
    callbacks: dict[str, Callback]
    trackers: dict[str, Tracker]
    target: Target


def check_config(config: Config) -> None:
    """ConfigError with everything that is wrong with a config before anything large is built."""
    problems = dict.fromkeys([*problems_of(config), *_curriculum_problems(config)])
    if problems:
        raise ConfigError(problems)


def _curriculum_problems(config: Config) -> list[str]:
    """Problems of the phases with the tasks of the data, as far as either can be built."""
    if config["mode"] not in ("train", "check", "lr_find"):
        return []
    try:
        data = build(config["data"], DataSource, "data")
        return check_phases(config["phase"], config["optimizer"], config["scheduler"], data.tasks)
    except ConfigError as error:
        return error.problems


def assemble(config: Config, rank: int = 0, world_size: int = 1) -> Parts:
    """Build an experiment's objects. ConfigError lists what does not fit together."""
    data = build_data(config)
    tasks = learned_tasks(config)
    spec = data.spec(tasks[0])
    model, objective, target = build_core(config, spec)
    if config["teacher"] is not None:
        attach_teacher(config, data, tasks)
    callbacks, trackers = _build_extras(config)
    settings = settings_of(config, objective)
    plan = resolve(
        config["phase"],
        optimizer=config["optimizer"],
        scheduler=config["scheduler"],
        data=data,
        model=model,
        accumulate=settings.accumulate,
        seed=config["seed"],
        rank=rank,
        world_size=world_size,
    )
    problems = check_metrics(settings, plan, target, callbacks.values())
    if settings.tbptt is not None:
        problems += check_truncation(objective)
    validated = monitored(settings, plan, validations(callbacks.values()))
    problems += check_callbacks(callbacks, Setup(model, data, objective, plan, settings, validated))
    problems += _unmet(target, model)
    evaluated = [task for phase in plan for task in phase.evaluate]
    for task in dict.fromkeys([*tasks, *evaluated]):
        problems += misfits(data.spec(task), spec, model, objective)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    check_target(target, model, data, plan[-1].evaluate)
    return Parts(data, spec, model, objective, settings, plan, callbacks, trackers, target)


def build_data(config: Config) -> DataSource:
    """The data, ready to be read, with the targets that the objective learns from."""
    data = build(config["data"], DataSource, "data")
    data.prepare()
    return as_learned(data, config["objective"].get("paradigm", "supervised"))


def settings_of(config: Config, objective: Objective) -> TrainerSettings:
    """The trainer's settings, with what is `auto` as this objective's decisions are judged."""
    settings = TrainerSettings.model_validate(config["trainer"], strict=False)
    return settings.for_metrics(objective.directions)


def build_core(config: Config, spec: TaskSpec) -> tuple[CoreModel, Objective, Target]:
    """The model, freshly seeded, what it learns from, and what it is evaluated on."""
    seed_everything(config["seed"])
    model = build(config["model"], CoreModel, "model", spec=spec)
    terms = build_mapping(config["loss"], Term, "loss")
    metrics = build_mapping(config["metric"], Metric, "metric")
    objective = build(
        config["objective"],
        Objective,
        "objective",
        terms=terms,
        target=spec.targets.kind,
        metrics=metrics,
    )
    return model, objective, build(target_node(config), Target, "hardware")


def _build_extras(config: Config) -> tuple[dict[str, Callback], dict[str, Tracker]]:
    callbacks = build_mapping(config["callbacks"], Callback, "callbacks")
    return callbacks, build_mapping(config["tracking"], Tracker, "tracking")


def misfits(
    spec: TaskSpec, built_for: TaskSpec, model: CoreModel, objective: Objective
) -> Iterator[str]:
    """Why a task, the model and the objective cannot work together."""
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


def learned_tasks(config: Config) -> tuple[str, ...]:
    """The tasks of all phases, each once."""
    named = [phase["task"] for phase in config["phase"].values()]
    tasks = [task for t in named for task in ([t] if isinstance(t, str) else t)]
    return tuple(dict.fromkeys(tasks))


def check_target(target: Target, model: CoreModel, data: DataSource, tasks: Iterable[str]) -> None:
    """Raise what the target has against evaluating this model on these tasks."""
    if problems := _unmet(target, model):
        raise ConfigError(problems)
    specs = {task: data.spec(task) for task in tasks}
    target.check(model, specs, {task: data.loader(task, "test").samples for task in specs})


def _unmet(target: Target, model: CoreModel) -> list[str]:
    """Capabilities that the target needs and the model lacks."""
    problems = unmet(model, target.requires, f"hardware: {type(target).__name__}")
    advice = "Use hardware=auto, or a spiking model such as model=ltgate."
    return [f"{problem} {advice}" for problem in problems]
