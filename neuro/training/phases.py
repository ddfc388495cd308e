"""Curricula: the phases of a config, resolved into complete plans before training starts.

A phase of the config names its tasks and length, flags, frozen parameters and changes of optimizer
and schedule, and what the next phase takes over. `resolve` makes a `PhasePlan` of each, with the
number of updates, or reports all problems of the curriculum.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from neuro.config.build import Node, Problems, parse
from neuro.config.phase import PhaseConfig, Replay
from neuro.config.scenario import EACH, JOINT
from neuro.config.values import parse_values
from neuro.data.base import DataSource, Loader
from neuro.data.mixture import ConcatLoader
from neuro.data.replay import Choice, Earlier, Losses, LossRecorder, ReplayLoader
from neuro.errors import nearest
from neuro.models.base import CoreModel
from neuro.training.optimizers import OptimizerFactory
from neuro.training.schedules import Schedule, Span


class Phase(NamedTuple):
    """A phase of the config with the optimizer and the schedule that it trains with."""

    config: PhaseConfig
    optimizer: Node[OptimizerFactory]
    scheduler: Node[Schedule]


@dataclass(frozen=True)
class PhasePlan:
    """A phase with all its settings and objects, independent of the config.

    - `epochs`, `steps`: its length, in updates unless `steps` is None
    - `loader`: the training data of this process, with replay
    - `own`: the tasks' training data without replay and not divided among processes, for
      consolidation after the phase and replay in later ones
    - `flags`: include those of earlier phases, which hold until a later phase changes them
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
    carry_state: bool = False
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
        """The phase's length, for schedules."""
        return Span(self.total_steps, self.steps_per_epoch)

    def over(self, epoch: int, step: int) -> bool:
        """True if the phase ends after `epoch` epochs and `step` updates."""
        return epoch >= self.epochs if self.steps is None else step >= self.steps

    def frozen(self, parameter: str) -> bool:
        """True if a parameter is not trained in this phase."""
        return any(fnmatch.fnmatchcase(parameter, pattern) for pattern in self.freeze)


def parse_phases(
    phases: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    tasks: Sequence[str] | None = None,
) -> dict[str, Phase]:
    """Parse and check the phases of a config. ConfigError lists all problems.

    `optimizer` and `scheduler` are the run's own nodes, which a phase may change. `tasks` are those
    of the data; None if there are none to compare with.
    """
    problems = Problems()
    own_optimizer = problems.collect(parse, optimizer, OptimizerFactory, "optimizer")
    own_schedule = problems.collect(parse, scheduler, Schedule, "scheduler")
    if not phases:
        problems.append("phase: a curriculum needs at least one phase.")
    parsed: dict[str, Phase] = {}
    for name, node in phases.items():
        path = f"phase.{name}"
        phase = problems.collect(parse_values, node, PhaseConfig, path)
        if phase is None:
            continue
        if (phase.epochs is None) == (phase.steps is None):
            problems.append(f"{path}: give either epochs or steps.")
        if tasks is not None:
            problems += _unknown_tasks(phase, tasks, path)
        made, schedule = own_optimizer, own_schedule
        if phase.optimizer:
            changed = _changed(optimizer, phase.optimizer)
            made = problems.collect(parse, changed, OptimizerFactory, f"{path}.optimizer")
        if phase.scheduler:
            changed = _changed(scheduler, phase.scheduler)
            schedule = problems.collect(parse, changed, Schedule, f"{path}.scheduler")
        parsed[name] = Phase(phase, made, schedule)
    if len(parsed) == 1 and (only := next(iter(parsed.items())))[1].config.replay is not None:
        problems.append(
            f"phase.{only[0]}.replay: there is no earlier phase whose samples could be replayed; "
            "give several phases, or set it to null."
        )
    problems.raise_all()
    return parsed


def learned_tasks(phases: Mapping[str, Phase]) -> tuple[str, ...]:
    """The tasks that any phase learns, each once, in the order of the phases."""
    return tuple(dict.fromkeys(task for phase in phases.values() for task in phase.config.tasks))


def resolve(
    phases: Mapping[str, Phase],
    *,
    data: DataSource,
    model: CoreModel,
    accumulate: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[PhasePlan, ...]:
    """The plans of all phases. ConfigError lists all problems of them."""
    problems = Problems()
    learned = learned_tasks(phases)
    plans: list[PhasePlan] = []
    earlier: list[Earlier] = []
    replays = [node.config.replay for node in phases.values()]
    by_loss = any(replay is not None and replay.choice == "importance" for replay in replays)
    flags: dict[str, Any] = {}
    for index, (name, node) in enumerate(phases.items()):
        phase, path = node.config, f"phase.{name}"
        problems += _unusable(phase, model, path)
        flags = {**flags, **phase.flags}
        draw = seed + 7919 * index  # a prime, so that seeds of other runs hardly coincide
        share = _training_data(data, phase.tasks, draw, rank, world_size)
        empty = _empty_splits(data, share, phase, learned)
        if empty:
            problems += empty
            continue
        own = share if world_size == 1 else _training_data(data, phase.tasks, draw, 0, 1)
        losses: Losses = {}
        if by_loss:
            share = recorder = LossRecorder(share, phase.tasks)
            losses = recorder.losses
        loader = share
        if phase.replay is not None:
            problems += _unfit_replay(phase.replay, list(phases.values())[:index], data, path)
        if phase.replay is not None and earlier:
            replay = phase.replay
            loader = ReplayLoader(
                share,
                earlier,
                Choice(replay.choice, replay.samples, replay.capacity),
                batch_size=data.batch_size,
                share=replay.share,
                seed=draw,
                rank=rank,
                world_size=world_size,
            )
        earlier.append(Earlier(own, losses))
        steps_per_epoch = math.ceil(len(loader) / accumulate)
        made = problems.collect(node.optimizer.build)
        schedule = problems.collect(node.scheduler.build)
        if made is None or schedule is None:
            continue
        names = [name for name, _ in model.named_parameters()]
        problems += made.problems(names, node.optimizer.path)
        if plans and plans[-1].carry_optimizer and not made.continues(plans[-1].optimizer):
            problems.append(
                f"phase.{plans[-1].name}.carry.optimizer: {type(made).__name__} of phase '{name}' "
                f"cannot take over the state of {type(plans[-1].optimizer).__name__}."
            )
        plans.append(
            PhasePlan(
                name=name,
                index=index,
                tasks=phase.tasks,
                epochs=phase.epochs or math.ceil((phase.steps or 0) / steps_per_epoch),
                steps=phase.steps,
                steps_per_epoch=steps_per_epoch,
                loader=loader,
                own=own,
                optimizer=made,
                schedule=schedule,
                evaluate=phase.evaluated(learned),
                carry_weights=phase.carry.weights,
                carry_optimizer=phase.carry.optimizer,
                carry_state=phase.carry.state,
                flags=flags,
                freeze=phase.freeze,
            )
        )
        problems += [f"{path}.scheduler.{p}" for p in schedule.problems(plans[-1].span)]
    problems.raise_all()
    return tuple(plans)


def unknown_task(key: str, task: str, tasks: Sequence[str]) -> str:
    """The problem of a key that names a task which the data does not have."""
    return f"{key}: the data has no task '{task}'. Its tasks: {', '.join(tasks)}."


def _unknown_tasks(phase: PhaseConfig, tasks: Sequence[str], path: str) -> list[str]:
    """Problems of tasks that the data does not have."""
    evaluated = phase.evaluated(())
    hint = " phase=splits has a phase for each split of the scenario." if JOINT in tasks else ""
    each = " A scenario, as scenario=class_incremental, makes it a phase for each of its splits."
    return [
        unknown_task(f"{path}.{key}", task, tasks)
        + (each if task == EACH else nearest(task, tasks) or hint)
        for key, named in (("task", phase.tasks), ("evaluate", evaluated))
        for task in named
        if task not in tasks
    ]


def _changed(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A node with a phase's changes; another class starts from its own defaults."""
    same = changes.get("_target_", node.get("_target_")) == node.get("_target_")
    return {**node, **changes} if same else dict(changes)


def _training_data(
    data: DataSource, tasks: tuple[str, ...], seed: int, rank: int, world_size: int
) -> Loader:
    """Shuffled training data of one or several tasks."""
    loaders = [
        data.loader(task, "train", shuffle=True, seed=seed, rank=rank, world_size=world_size)
        for task in tasks
    ]
    return loaders[0] if len(loaders) == 1 else ConcatLoader(loaders, seed)


def _empty_splits(
    data: DataSource, training: Loader, phase: PhaseConfig, learned: tuple[str, ...]
) -> list[str]:
    """Problems of splits without samples that a phase needs."""
    tested = phase.evaluated(learned)
    splits = [f"{task}/test" for task in tested if data.loader(task, "test").samples == 0]
    splits += [f"{task}/val" for task in phase.tasks if data.loader(task, "val").samples == 0]
    if len(training) == 0:
        splits.append("+".join(phase.tasks) + "/train")
    return [f"data: {split} holds no samples; a phase needs them all." for split in splits]


def _unfit_replay(
    replay: Replay, earlier: Sequence[Phase], data: DataSource, path: str
) -> Iterator[str]:
    """Problems of replay of earlier phases."""
    specs = [data.spec(task) for phase in earlier for task in phase.config.tasks]
    classes = {label for spec in specs for label in spec.classes}
    kept = replay.samples * len(earlier) if replay.capacity is None else replay.capacity
    key = "samples" if replay.capacity is None else "capacity"
    if any(spec.targets.kind != "class" for spec in specs):
        if replay.choice == "balanced":
            yield f"{path}.replay.choice: balanced needs data with one class per sample."
    elif earlier and kept < len(classes) and (replay.choice == "balanced" or key == "capacity"):
        yield (
            f"{path}.replay.{key}: {kept} samples are kept, fewer than the {len(classes)} classes "
            "of earlier phases; keep at least one of each."
        )


def _unusable(phase: PhaseConfig, model: CoreModel, path: str) -> list[str]:
    """Problems of flags and frozen parameters that the model does not have."""
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
            known = ", ".join(model.phase_flags)
            allowed = f"Allowed: {known}." if known else f"It has none; ~{path}.flags.{flag}."
            problems.append(
                f"{path}.flags.{flag}: the model has no such phase flag. {allowed}"
                + nearest(flag, model.phase_flags)
            )
    problems += [f"{path}.flags.{problem}" for problem in model.flag_problems(phase.flags)]
    return problems
