"""The rules of a whole config: its top level, and what holds across groups.

Problems are collected and reported together, before anything expensive happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from neuro.config.build import check, check_values
from neuro.data.base import DataSource
from neuro.errors import nearest
from neuro.hardware.base import Target
from neuro.learning.continual.metrics import continual_metrics, scalars
from neuro.learning.metrics import Metric
from neuro.learning.objective import Objective, Term
from neuro.models.base import CoreModel
from neuro.tracking.base import Tracker
from neuro.training.callbacks.base import Callback
from neuro.training.optimizers import OptimizerFactory
from neuro.training.phases import PhaseConfig, PhasePlan
from neuro.training.schedules import FeedbackSchedule, Schedule
from neuro.training.settings import TrainerSettings

Mode = Literal["train", "evaluate", "predict", "check", "lr_find"]


class HardwareSettings(BaseModel):
    """Where training runs: one half of the group. The other keys are the evaluation target's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Gt(0)]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    strategy: Literal["auto", "ddp"]
    compile_: bool = Field(alias="compile")

    @field_validator("strategy", mode="before")
    @classmethod
    def _weights_on_every_process(cls, value: Any) -> Any:
        if value == "fsdp":
            raise PydanticCustomError(
                "fsdp",
                "dividing weights among processes is not supported, because local rules, callbacks "
                "and validation read all of them. Use hardware.strategy=ddp; where a device's "
                "memory is short, also a smaller data.batch_size with trainer.accumulate, or "
                "hardware.precision=bf16-mixed",
            )
        return value


#: the keys of the first half, as they are written
TRAINING_KEYS = tuple(f.alias or name for name, f in HardwareSettings.model_fields.items())


class RootConfig(BaseModel):
    """The top level of a config. Groups are checked by their own contracts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Mode
    seed: Annotated[int, Ge(0)]
    repeats: Annotated[int, Ge(1)]
    project: Annotated[str, MinLen(1)]
    name: Annotated[str, MinLen(1)]
    group: str | None
    tags: tuple[str, ...]
    runs_dir: str
    run: str | Annotated[tuple[str, ...], MinLen(1)] | None
    ensemble: Literal["mean"] | None
    checkpoint: Annotated[str, MinLen(1)]
    resume: str | None
    init_from: str | None
    init_strict: bool
    teacher: str | None
    teacher_checkpoint: Annotated[str, MinLen(1)]
    teacher_mixtures: Annotated[int, Ge(0)]
    objective: Any
    loss: dict[str, Any]
    metric: dict[str, Any]
    optimizer: Any
    scheduler: Any
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    data: Any
    tracking: dict[str, Any]
    phase: dict[str, Any]
    hardware: dict[str, Any]
    model: Any


COMPONENTS: dict[str, type] = {
    "data": DataSource,
    "model": CoreModel,
    "objective": Objective,
    "optimizer": OptimizerFactory,
    "scheduler": Schedule,
}
COLLECTIONS: dict[str, type] = {
    "loss": Term,
    "metric": Metric,
    "callbacks": Callback,
    "tracking": Tracker,
}


def problems_of(cfg: Mapping[str, Any]) -> list[str]:
    """Everything that can be told to be wrong without building anything."""
    problems = check_values(cfg, RootConfig, "")
    nodes = (*COMPONENTS, *COLLECTIONS, "hardware", "trainer", "phase")
    if not all(isinstance(cfg.get(node), Mapping) for node in nodes):
        return problems or ["The config lacks one of its groups; see --cfg job."]
    for group, contract in COMPONENTS.items():
        problems += check(cfg[group], contract, group)
    for group, contract in COLLECTIONS.items():
        for name, node in cfg[group].items():
            if node is not None:
                problems += check(node, contract, f"{group}.{name}")
    hardware = {k: v for k, v in cfg["hardware"].items() if k in TRAINING_KEYS}
    problems += check_values(hardware, HardwareSettings, "hardware")
    problems += check(target_node(cfg), Target, "hardware", beside=TRAINING_KEYS)
    problems += check_values(cfg["trainer"], TrainerSettings, "trainer")
    for name, node in cfg["phase"].items():
        problems += check_values(node, PhaseConfig, f"phase.{name}")
    if not any(node is not None for node in cfg["loss"].values()):
        problems.append("loss: give at least one term; training would minimise nothing.")
    return problems + (_contradictions(cfg) if isinstance(cfg.get("mode"), str) else [])


def target_node(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation target's part of `hardware`."""
    return {k: v for k, v in cfg["hardware"].items() if k not in TRAINING_KEYS}


def _contradictions(cfg: Mapping[str, Any]) -> list[str]:
    """Keys that are fine alone but not together."""
    problems = []
    if cfg["mode"] in ("evaluate", "predict") and cfg["run"] is None:
        problems.append(f"mode={cfg['mode']} needs run=<directory of a finished run>.")
    if cfg["mode"] in ("train", "check", "lr_find") and cfg["run"] is not None:
        problems.append(
            f"run: is for mode=evaluate and mode=predict, not mode={cfg['mode']}. "
            "Use resume=<run> to continue a run, init_from=<run> to start from its weights."
        )
    if cfg["mode"] != "evaluate" and cfg["ensemble"] is not None:
        problems.append(f"ensemble: is for mode=evaluate, not mode={cfg['mode']}.")
    if cfg["mode"] in ("evaluate", "predict") and cfg["repeats"] != 1:
        problems.append(
            f"repeats: is for training; it cannot be used with mode={cfg['mode']}. "
            "run=<directory of a set> with ensemble=mean evaluates repeats together."
        )
    if cfg["trainer"].get("clip_norm") and cfg["trainer"].get("clip_value"):
        problems.append(
            "trainer.clip_value: clips the entries of a gradient whose norm trainer.clip_norm "
            "clips; give one of them and set the other to null."
        )
    taught = cfg["objective"].get("paradigm") == "distillation"
    if taught and cfg["teacher"] is None and cfg["mode"] not in ("evaluate", "predict"):
        problems.append(
            "teacher: objective.paradigm=distillation needs one; give teacher=<directory of a "
            "finished run>."
        )
    if cfg["teacher"] is not None and not taught:
        problems.append(
            "teacher: is followed with objective.paradigm=distillation; set that, with a term for "
            "it as in loss=[cross_entropy,distillation], or set teacher=null."
        )
    if cfg["teacher_mixtures"] and not taught:
        problems.append(
            "teacher_mixtures: only a teacher can tell what mixtures of samples are; set "
            "objective.paradigm=distillation, or teacher_mixtures=0."
        )
    if cfg["mode"] != "train" and cfg["resume"] is not None:
        problems.append(f"resume: continues training; it cannot be used with mode={cfg['mode']}.")
    return problems


def check_metrics(
    settings: TrainerSettings,
    plan: Sequence[PhasePlan],
    target: Target,
    callbacks: Iterable[Callback],
) -> list[str]:
    """Monitored metric and objective must be ones that this run produces."""
    kinds = validations(callbacks)
    produced = reported(settings, plan, target, kinds)
    problems = []
    for key, value, names in (
        ("monitor", settings.monitor, monitored(settings, plan, kinds)),
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
                f"{settings.monitor}, which nothing measures; set trainer.validation.epochs=1."
            )
        if phase.carry_weights == "best" and not _validated(settings, phase):
            problems.append(
                f"phase.{phase.name}.carry.weights: best needs a validation during the phase; "
                "set trainer.validation.epochs=1."
            )
    return problems


def validations(callbacks: Iterable[Callback]) -> tuple[str, ...]:
    """What the names of validated metrics begin with: `val`, and what callbacks add to it."""
    own = (callback.validates for callback in callbacks)
    return ("val", *dict.fromkeys(kind for kind in own if kind is not None))


def reported(
    settings: TrainerSettings, plan: Sequence[PhasePlan], target: Target, kinds: Sequence[str]
) -> list[str]:
    """The metrics that a run's report will hold; `kinds` are its validations."""
    validated = [_validated(settings, phase, kinds) for phase in plan]
    names = [f"test/{m}" for m in settings.measures]
    names += [f"test/{t}/{m}" for t in plan[-1].evaluate for m in settings.measures]
    names += [f"hardware/{name}" for name in target.metric_names(plan[-1].evaluate)]
    return [
        *names,
        *_continual(plan, settings.measures),
        *next((found for found in reversed(validated) if found), []),
    ]


def monitored(
    settings: TrainerSettings, plan: Sequence[PhasePlan], kinds: Sequence[str]
) -> list[str]:
    """The metrics that the validations of every phase give; `kinds` are its validations."""
    first, *others = (_validated(settings, phase, kinds) for phase in plan)
    return [name for name in first if all(name in names for names in others)]


def _validated(
    settings: TrainerSettings, phase: PhasePlan, kinds: Sequence[str] = ("val",)
) -> list[str]:
    """The metrics of a phase's validations, if it has any."""
    if settings.validation.epochs is None and settings.validation.steps is None:
        return []
    tasks = phase.tasks if len(phase.tasks) > 1 else ()
    measures = settings.measures
    names = [*measures, *(f"{task}/{m}" for task in tasks for m in measures)]
    return [f"{kind}/{name}" for kind in kinds for name in names]


def _continual(plan: Sequence[PhasePlan], measures: Sequence[str]) -> list[str]:
    """The continual measures that a curriculum has: those of a matrix of zeros."""
    columns = plan[0].evaluate
    if len(plan) == 1 or any(set(phase.evaluate) != set(columns) for phase in plan):
        return []
    zeros = [0.0] * len(columns)
    initial = dict.fromkeys(columns, 0.0)
    learned = [phase.tasks for phase in plan]
    found = continual_metrics(columns, [zeros] * len(plan), learned, initial)
    _, *others = measures
    return [*scalars(found), *(name for metric in others for name in scalars(found, metric))]
