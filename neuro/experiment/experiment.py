"""The typed experiment: a composed config, parsed and checked once, then read by attribute.

The annotations of `Experiment` name the contract of each group. All problems that can be found
without building a model are raised together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from neuro.config.build import Node, Problems, parse, parse_all
from neuro.config.experiment import RunSettings, plain
from neuro.config.hardware import TRAINING_KEYS, HardwareSettings
from neuro.config.trainer import TrainerSettings
from neuro.config.values import parse_values, shortened
from neuro.data.base import DataSource
from neuro.data.uses import Paradigm
from neuro.experiment.rules import contradictions
from neuro.hardware.base import Target
from neuro.learning.metrics import Metric
from neuro.learning.objective import Objective
from neuro.learning.terms import Term
from neuro.models.base import CoreModel
from neuro.tracking.base import Tracker
from neuro.training.callbacks.base import Callback
from neuro.training.phases import Phase, learned_tasks, parse_phases

#: modes that use the phases, whose tasks must be tasks of the data
_LEARNING = ("train", "check", "lr_find")

#: top-level keys that hold mappings
_GROUPS = (
    "data",
    "model",
    "objective",
    "loss",
    "metric",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "tracking",
    "phase",
    "hardware",
)


#: the largest 32-bit float
_MAX_FLOAT = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment(RunSettings):
    """A whole config, checked.

    - The group `hardware` is divided into the devices of training (`hardware`) and the target that
      evaluates the trained model (`target`).
    - `optimizer` and `scheduler` are part of the phases, which may change them.
    - `source`: the config that was parsed, with its interpolations
    - `content`: the same as plain containers, resolved once by the process that composed it
    """

    data: Node[DataSource]
    model: Node[CoreModel]
    objective: Node[Objective]
    loss: dict[str, Node[Term]]
    metric: dict[str, Node[Metric]]
    callbacks: dict[str, Node[Callback]]
    tracking: dict[str, Node[Tracker]]
    target: Node[Target]
    phase: dict[str, Phase]
    trainer: TrainerSettings
    hardware: HardwareSettings
    source: DictConfig = field(repr=False)
    content: dict[str, Any] = field(repr=False)

    @property
    def paradigm(self) -> Paradigm:
        """Source of the objective's targets."""
        return paradigm_of(self.objective)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all phases, in their order."""
        return learned_tasks(self.phase)

    def plain(self) -> dict[str, Any]:
        """A copy of the config as plain containers, as config.yaml and trackers get it."""
        return copy.deepcopy(self.content)

    def changed(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with other values of some keys (`seed`, `data.path`), and of keys that
        are interpolated from them. Raises ConfigError like `parse_experiment`.
        """
        source = self.source.copy()
        for key, value in values.items():
            OmegaConf.update(source, key, value, merge=False, force_add=True)
        return parse_experiment(source, compare_tasks=False)


def parse_experiment(
    source: DictConfig | Mapping[str, Any], *, compare_tasks: bool = True
) -> Experiment:
    """Parse and check a composed config. Raises ConfigError with all problems.

    - `source`: as Hydra composed it, or plain containers without interpolations
    - `compare_tasks`: check that the phases' tasks are tasks of the data, which is built for it
    """
    values = plain(source)
    problems = Problems(_too_large(values))
    problems.raise_all()
    keys = {name: value for name, value in values.items() if name not in _GROUPS}
    settings = problems.collect(parse_values, keys, RunSettings, beside=_GROUPS)
    lacking = [name for name in _GROUPS if not isinstance(values.get(name), Mapping)]
    if lacking:
        problems += [
            f"{name}: got {shortened(values.get(name))}; expected a mapping. See --cfg job."
            for name in lacking
        ]
        problems.raise_all()
    data = problems.collect(parse, values["data"], DataSource, "data")
    model = problems.collect(parse, values["model"], CoreModel, "model")
    objective = problems.collect(parse, values["objective"], Objective, "objective")
    loss = problems.collect(parse_all, values["loss"], Term, "loss")
    metric = problems.collect(parse_all, values["metric"], Metric, "metric")
    callbacks = problems.collect(parse_all, values["callbacks"], Callback, "callbacks")
    tracking = problems.collect(parse_all, values["tracking"], Tracker, "tracking")
    training = {key: value for key, value in values["hardware"].items() if key in TRAINING_KEYS}
    evaluating = {key: v for key, v in values["hardware"].items() if key not in TRAINING_KEYS}
    hardware = problems.collect(parse_values, training, HardwareSettings, "hardware")
    target = problems.collect(parse, evaluating, Target, "hardware", beside=TRAINING_KEYS)
    trainer = problems.collect(parse_values, values["trainer"], TrainerSettings, "trainer")
    tasks: tuple[str, ...] | None = None
    if compare_tasks and data is not None and settings is not None and settings.mode in _LEARNING:
        tasks = problems.collect(lambda: data.instance.tasks)
    phases, scenario = values["phase"], None if settings is None else settings.scenario
    if scenario is not None:
        phases, tasks = scenario.expanded(phases), scenario.tasks
    found = Problems()
    phase = found.collect(parse_phases, phases, values["optimizer"], values["scheduler"], tasks)
    problems += found if scenario is None else scenario.as_written(found, values["phase"])
    if loss is not None and not loss:
        problems.append("loss: give at least one term; training would minimise nothing.")
    if settings is not None:
        paradigm = None if objective is None else paradigm_of(objective)
        problems += contradictions(settings, trainer, paradigm)
    problems.raise_all()
    return Experiment(
        **vars(settings),
        data=data,
        model=model,
        objective=objective,
        loss=loss,
        metric=metric,
        callbacks=callbacks,
        tracking=tracking,
        target=target,
        phase=phase,
        trainer=trainer,
        hardware=hardware,
        source=source if isinstance(source, DictConfig) else OmegaConf.create(dict(source)),
        content=values,
    )


def _too_large(value: Any, path: str = "") -> Iterator[str]:
    """Problems with integers beyond 64 bits with sign, which neither torch nor NumPy accept, and
    with numbers that are infinite as 32-bit floats, in which models compute.
    """
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _too_large(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for i, below in enumerate(value):
            yield from _too_large(below, f"{path}.{i}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield f"{path}: got {shortened(value)}; integers have at most 63 bits (up to {2**63 - 1})."
    elif isinstance(value, float) and _MAX_FLOAT < abs(value) < math.inf:
        yield f"{path}: got {shortened(value)}; 32-bit floats end at {_MAX_FLOAT:.2g}."


def paradigm_of(objective: Node[Objective]) -> Paradigm:
    """The objective's paradigm, which defines the targets."""
    paradigm: Paradigm = objective.arguments.get("paradigm", "supervised")
    return paradigm
