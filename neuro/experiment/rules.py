"""Rules across config groups, and the metrics that a run reports.

Problems are collected and reported together, before any expensive work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from neuro.config.experiment import RunSettings
from neuro.config.modes import OF_FINISHED
from neuro.config.trainer import TrainerSettings
from neuro.data.uses import Paradigm
from neuro.errors import nearest
from neuro.hardware.base import Target
from neuro.learning.continual.metrics import continual_metrics, scalars
from neuro.training.callbacks.base import Callback, Setup
from neuro.training.phases import PhasePlan
from neuro.training.schedules import FeedbackSchedule


def contradictions(
    run: RunSettings, trainer: TrainerSettings | None, paradigm: Paradigm | None
) -> Iterator[str]:
    """Problems of keys that exclude each other; a group that is itself invalid is None."""
    if run.mode in OF_FINISHED and run.run is None:
        yield f"mode={run.mode} needs run=<directory of a finished run>."
    if run.mode not in OF_FINISHED and run.run is not None:
        yield (
            f"run: is for mode=evaluate, predict, generate, export and benchmark, not "
            f"mode={run.mode}. "
            "Use resume=<run> to continue a run, init_from=<run> to start from its weights."
        )
    if run.mode != "evaluate" and run.ensemble is not None:
        yield f"ensemble: is for mode=evaluate, not mode={run.mode}."
    if run.mode in {*OF_FINISHED, "opc"} and run.repeats != 1:
        yield (
            f"repeats: is for training; it cannot be used with mode={run.mode}. "
            "run=<directory of a set> with ensemble=mean evaluates repeats together."
        )
    if run.mode != "generate" and run.prompt is not None:
        yield f"prompt: is for mode=generate, not mode={run.mode}."
    if run.mode == "opc" and run.opc is None:
        yield "opc: mode=opc needs its keys; use experiment=lithography_opc, or opc=default."
    if run.mode == "opc" and run.init_from is not None:
        yield "init_from: mode=opc has no model whose weights it could load; set init_from=null."
    if run.mode in ("train", "check", "lr_find") and run.opc is not None:
        yield (
            f"opc: optimises masks, with mode=opc, not mode={run.mode}. To train a model use "
            "experiment=lithography."
        )
    if run.mode != "train" and run.resume is not None:
        yield f"resume: continues training; it cannot be used with mode={run.mode}."
    if run.scenario is not None and paradigm == "self_supervised":
        yield (
            "scenario: divides data by their classes, which objective.paradigm=self_supervised "
            "does not use; leave it out by ~scenario."
        )
    if trainer is not None and trainer.clip_norm and trainer.clip_value:
        yield (
            "trainer.clip_value: clips the entries of a gradient whose norm trainer.clip_norm "
            "clips; give one of them and set the other to null."
        )
    if paradigm == "distillation":
        if run.teacher is None and run.mode not in OF_FINISHED:
            yield (
                "teacher: objective.paradigm=distillation needs one; give teacher=<directory of a "
                "finished run>."
            )
    elif paradigm is not None:
        if run.teacher is not None:
            yield (
                "teacher: is followed with objective.paradigm=distillation; set that, with a term "
                "for it as in loss=[cross_entropy,distillation], or set teacher=null."
            )
        if run.teacher_mixtures:
            yield (
                "teacher_mixtures: mixtures of samples have no label but a teacher's; set "
                "objective.paradigm=distillation, or teacher_mixtures=0."
            )


def check_metrics(setup: Setup, produced: Sequence[str]) -> list[str]:
    """Problems of metrics that keys name but the run does not produce."""
    settings, plan = setup.settings, setup.plan
    kinds = validations(setup.callbacks.values())
    problems = []
    for key, value, names in (
        ("monitor", settings.monitor, setup.validated),
        ("objective", settings.objective, produced),
    ):
        if names and value not in names:
            problems.append(
                f"trainer.{key}: this run produces no '{value}'. Allowed: {', '.join(names)}."
                + nearest(value, names)
            )
    for phase in plan:
        if isinstance(phase.schedule, FeedbackSchedule) and not _validated(settings, phase):
            problems.append(
                f"scheduler: in phase '{phase.name}' {type(phase.schedule).__name__} reacts to "
                f"{phase.schedule.monitor or settings.monitor}, which nothing measures; set "
                "trainer.validation.epochs=1."
            )
        watched, validated = phase.schedule.monitor, _validated(settings, phase, kinds)
        if watched is not None and validated and watched not in validated:
            problems.append(
                f"scheduler.monitor: phase '{phase.name}' validates no '{watched}'. Allowed: "
                f"{', '.join(validated)}.{nearest(watched, validated)}"
            )
        if phase.carry_weights == "best" and not _validated(settings, phase):
            problems.append(
                f"phase.{phase.name}.carry.weights: best needs a validation during the phase; "
                "set trainer.validation.epochs=1."
            )
    return problems


def validations(callbacks: Iterable[Callback]) -> tuple[str, ...]:
    """Prefixes of validated metrics: `val`, and those of callbacks that validate other weights."""
    own = (callback.validates for callback in callbacks)
    return ("val", *dict.fromkeys(kind for kind in own if kind is not None))


def reported(setup: Setup, target: Target) -> list[str]:
    """Names of the metrics in a run's report."""
    settings, plan = setup.settings, setup.plan
    kinds = validations(setup.callbacks.values())
    validated = [_validated(settings, phase, kinds) for phase in plan]
    names = [f"test/{m}" for m in settings.measures]
    names += [f"test/{t}/{m}" for t in plan[-1].evaluate for m in settings.measures]
    metrics = [name for name in settings.measures if name != "loss"]
    names += [f"hardware/{name}" for name in target.metric_names(plan[-1].evaluate, metrics)]
    return [
        *names,
        *_continual(plan, settings.measures),
        *next((found for found in reversed(validated) if found), []),
        *(name for callback in setup.callbacks.values() for name in callback.reports(setup)),
    ]


def monitored(
    settings: TrainerSettings, plan: Sequence[PhasePlan], kinds: Sequence[str]
) -> list[str]:
    """Names of the metrics that all phases validate; `kinds`: prefixes of the validations."""
    first, *others = (_validated(settings, phase, kinds) for phase in plan)
    return [name for name in first if all(name in names for names in others)]


def _validated(
    settings: TrainerSettings, phase: PhasePlan, kinds: Sequence[str] = ("val",)
) -> list[str]:
    """Names of the metrics that a phase validates; empty without validations."""
    if settings.validation.epochs is None and settings.validation.steps is None:
        return []
    tasks = phase.tasks if len(phase.tasks) > 1 else ()
    measures = settings.measures
    names = [*measures, *(f"{task}/{m}" for task in tasks for m in measures)]
    return [f"{kind}/{name}" for kind in kinds for name in names]


def _continual(plan: Sequence[PhasePlan], measures: Sequence[str]) -> list[str]:
    """Names of a curriculum's continual measures, from computing them for a matrix of zeros."""
    columns = plan[0].evaluate
    if len(plan) == 1 or any(set(phase.evaluate) != set(columns) for phase in plan):
        return []
    zeros = [0.0] * len(columns)
    initial = dict.fromkeys(columns, 0.0)
    learned = [phase.tasks for phase in plan]
    found = continual_metrics(columns, [zeros] * len(plan), learned, initial)
    _, *others = measures
    return [*scalars(found), *(name for metric in others for name in scalars(found, metric))]
