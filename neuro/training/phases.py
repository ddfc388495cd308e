"""Curricula as data: every phase is resolved into a complete plan before the first one starts.

A config's phase says which task to learn and for how long, what is switched, frozen or changed
meanwhile, and what the next phase takes over. `resolve` turns the whole curriculum into
`PhasePlan`s with true step counts, or reports everything that is wrong with it.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Gt, Lt, MinLen
from pydantic import BaseModel, ConfigDict

from neuro.config.build import build, check, check_values
from neuro.data.base import DataSource, Loader
from neuro.data.mixture import ConcatLoader, ReplayLoader
from neuro.errors import ConfigError, nearest
from neuro.models.base import CoreModel
from neuro.training.optimizers import OptimizerFactory
from neuro.training.schedules import Schedule, Span

T = TypeVar("T")


class Replay(BaseModel):
    """Samples of earlier phases' tasks that are shown again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    samples: Annotated[int, Gt(0)] = 50
    share: Annotated[float, Gt(0), Lt(1)] = 0.5


class Carry(BaseModel):
    """What a phase hands on when it ends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weights: Literal["best", "last"] = "last"
    optimizer: bool = False


class PhaseConfig(BaseModel):
    """One phase as it stands in the config."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    task: str | Annotated[tuple[str, ...], MinLen(1)]
    epochs: Annotated[int, Gt(0)] | None = None
    steps: Annotated[int, Gt(0)] | None = None
    flags: dict[str, Any] = {}
    freeze: tuple[str, ...] = ()
    optimizer: dict[str, Any] = {}
    scheduler: dict[str, Any] = {}
    carry: Carry = Carry()
    replay: Replay | None = None
    evaluate: Annotated[tuple[str, ...], MinLen(1)] | Literal["all"] = "all"


@dataclass(frozen=True)
class PhasePlan:
    """One phase, complete: nothing about it is looked up in the config any more.

    It lasts `epochs`, or `steps` where that is not None. `loader` gives what is trained on; `own`
    the tasks' training data without replay and undivided, for what follows the phase. `flags` hold
    those of earlier phases too, which stay until a later phase changes them.
    """

    name: str
    index: int
    tasks: tuple[str, ...]
    epochs: int
    steps: int | None
    steps_per_epoch: int
    loader: Loader
    own: Loader
    optimizer: OptimizerFactory
    schedule: Schedule
    evaluate: tuple[str, ...]
    carry_weights: Literal["best", "last"] = "last"
    carry_optimizer: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task's name, or several joined by `+`."""
        return "+".join(self.tasks)

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole phase."""
        return self.steps or self.epochs * self.steps_per_epoch

    @property
    def span(self) -> Span:
        """The phase's length as schedules count it."""
        return Span(self.total_steps, self.steps_per_epoch)

    def over(self, epoch: int, step: int) -> bool:
        """Whether the phase has had its length after `epoch` epochs and `step` updates."""
        return epoch >= self.epochs if self.steps is None else step >= self.steps

    def frozen(self, parameter: str) -> bool:
        """Whether a parameter stays as it is in this phase."""
        return any(fnmatch.fnmatchcase(parameter, pattern) for pattern in self.freeze)


def check_phases(
    phases: Mapping[str, Any], optimizer: Any, scheduler: Any, tasks: tuple[str, ...]
) -> list[str]:
    """Problems of a curriculum that can be told without data or model."""
    if not phases:
        return ["phase: a curriculum needs at least one phase."]
    problems: list[str] = []
    for name, node in phases.items():
        path = f"phase.{name}"
        found = check_values(node, PhaseConfig, path)
        problems += found
        if found:
            continue
        phase = _parse(node)
        if (phase.epochs is None) == (phase.steps is None):
            problems.append(f"{path}: give either epochs or steps.")
        for key, wanted in (("task", _tasks(phase)), ("evaluate", _named(phase.evaluate))):
            problems += [
                f"{path}.{key}: the data has no task '{task}'. Its tasks: {', '.join(tasks)}."
                + nearest(task, tasks)
                for task in wanted
                if task not in tasks
            ]
        if phase.optimizer:
            problems += check(
                _changed(optimizer, phase.optimizer), OptimizerFactory, f"{path}.optimizer"
            )
        if phase.scheduler:
            problems += check(_changed(scheduler, phase.scheduler), Schedule, f"{path}.scheduler")
    return problems


def resolve(
    phases: Mapping[str, Any],
    *,
    optimizer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    data: DataSource,
    model: CoreModel,
    accumulate: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[PhasePlan, ...]:
    """The whole curriculum as plans. ConfigError lists every phase that cannot run."""
    problems = check_phases(phases, optimizer, scheduler, data.tasks)
    if problems:
        raise ConfigError(problems)
    parsed = {name: _parse(node) for name, node in phases.items()}
    learned = tuple(dict.fromkeys(t for p in parsed.values() for t in _tasks(p)))
    plans: list[PhasePlan] = []
    earlier: list[Loader] = []
    flags: dict[str, Any] = {}
    for index, (name, phase) in enumerate(parsed.items()):
        path = f"phase.{name}"
        problems += _unusable(phase, model, path)
        flags = {**flags, **phase.flags}
        draw = seed + 7919 * index
        share = _training_data(data, _tasks(phase), draw, rank, world_size)
        empty = _empty_splits(data, share, phase, learned)
        if empty:
            problems += empty
            continue
        loader = share
        if phase.replay is not None and earlier:
            loader = ReplayLoader(
                share, earlier, samples=phase.replay.samples, share=phase.replay.share, seed=draw,
                rank=rank, world_size=world_size,
            )  # fmt: skip
        own = share if world_size == 1 else _training_data(data, _tasks(phase), draw, 0, 1)
        earlier.append(own)
        steps_per_epoch = math.ceil(len(loader) / accumulate)
        try:
            made = _with_changes(optimizer, phase.optimizer, OptimizerFactory, "optimizer", path)
            schedule = _with_changes(scheduler, phase.scheduler, Schedule, "scheduler", path)
        except ConfigError as error:  # what only the constructors can tell
            problems += error.problems
            continue
        names = [name for name, _ in model.named_parameters()]
        problems += made.problems(names, f"{path}.optimizer" if phase.optimizer else "optimizer")
        if plans and plans[-1].carry_optimizer and not made.continues(plans[-1].optimizer):
            problems.append(
                f"phase.{plans[-1].name}.carry.optimizer: {type(made).__name__} of phase '{name}' "
                f"cannot take over the state of {type(plans[-1].optimizer).__name__}."
            )
        plans.append(
            PhasePlan(
                name=name,
                index=index,
                tasks=_tasks(phase),
                epochs=phase.epochs or math.ceil((phase.steps or 0) / steps_per_epoch),
                steps=phase.steps,
                steps_per_epoch=steps_per_epoch,
                loader=loader,
                own=own,
                optimizer=made,
                schedule=schedule,
                evaluate=learned if phase.evaluate == "all" else phase.evaluate,
                carry_weights=phase.carry.weights,
                carry_optimizer=phase.carry.optimizer,
                flags=flags,
                freeze=phase.freeze,
            )
        )
        problems += [f"{path}.scheduler.{p}" for p in schedule.problems(plans[-1].span)]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return tuple(plans)


def _with_changes(
    node: Mapping[str, Any], changes: Mapping[str, Any], contract: type[T], key: str, phase: str
) -> T:
    """A component of the run as a phase changes it."""
    return build(_changed(node, changes), contract, f"{phase}.{key}" if changes else key)


def _changed(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A node with a phase's changes; another class starts from its own defaults."""
    same = changes.get("_target_", node.get("_target_")) == node.get("_target_")
    return {**node, **changes} if same else dict(changes)


def _training_data(
    data: DataSource, tasks: tuple[str, ...], seed: int, rank: int, world_size: int
) -> Loader:
    loaders = [
        data.loader(task, "train", shuffle=True, seed=seed, rank=rank, world_size=world_size)
        for task in tasks
    ]
    return loaders[0] if len(loaders) == 1 else ConcatLoader(loaders, seed)


def _empty_splits(
    data: DataSource, training: Loader, phase: PhaseConfig, learned: tuple[str, ...]
) -> list[str]:
    """Splits that a phase needs and that hold no sample."""
    tested = learned if phase.evaluate == "all" else phase.evaluate
    splits = [f"{task}/test" for task in tested if data.loader(task, "test").samples == 0]
    splits += [f"{task}/val" for task in _tasks(phase) if data.loader(task, "val").samples == 0]
    if len(training) == 0:
        splits.append("+".join(_tasks(phase)) + "/train")
    return [f"data: {split} holds no samples; a phase needs them all." for split in splits]


def _parse(node: Any) -> PhaseConfig:
    return PhaseConfig.model_validate(node, strict=False)


def _tasks(phase: PhaseConfig) -> tuple[str, ...]:
    return (phase.task,) if isinstance(phase.task, str) else tuple(dict.fromkeys(phase.task))


def _named(evaluate: tuple[str, ...] | str) -> tuple[str, ...]:
    return () if isinstance(evaluate, str) else evaluate


def _unusable(phase: PhaseConfig, model: CoreModel, path: str) -> list[str]:
    """Flags and frozen parameters of a phase that the model does not have."""
    problems = []
    names = [name for name, _ in model.named_parameters()]
    for pattern in phase.freeze:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            problems.append(
                f"{path}.freeze: no parameter matches '{pattern}'. "
                f"The model has: {', '.join(names)}." + nearest(pattern, names)
            )
    for flag in phase.flags:
        if flag not in model.phase_flags:
            allowed = ", ".join(model.phase_flags) or "none"
            problems.append(
                f"{path}.flags.{flag}: the model has no such switch. Allowed: {allowed}."
                + nearest(flag, model.phase_flags)
            )
    return problems
