"""The rules of a whole config: its top level, and what holds across groups.

Problems are collected and reported together, before anything expensive happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field

from neuro.build import check, check_values
from neuro.data.base import DataSource
from neuro.errors import nearest
from neuro.hardware.base import Target
from neuro.learning.objective import Objective, Term
from neuro.models.base import CoreModel
from neuro.tracking.base import Tracker
from neuro.training.callbacks.base import Callback
from neuro.training.optimizers import OptimizerFactory
from neuro.training.phases import PhaseConfig
from neuro.training.schedules import Schedule
from neuro.training.settings import TrainerSettings

Mode = Literal["train", "evaluate", "predict", "check"]


class HardwareSettings(BaseModel):
    """Where training runs; the evaluation target is a component beside it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Gt(0)]
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
    strategy: str
    compile_: bool = Field(alias="compile")
    target: Any


class RootConfig(BaseModel):
    """The top level of a config. Groups are checked by their own contracts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Mode
    seed: Annotated[int, Ge(0)]
    project: Annotated[str, MinLen(1)]
    name: Annotated[str, MinLen(1)]
    group: str | None
    tags: tuple[str, ...]
    runs_dir: str
    run: str | None
    checkpoint: Annotated[str, MinLen(1)]
    resume: str | None
    init_from: str | None
    init_strict: bool
    objective: Any
    loss: dict[str, Any]
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
COLLECTIONS: dict[str, type] = {"loss": Term, "callbacks": Callback, "tracking": Tracker}


def problems_of(cfg: Mapping[str, Any]) -> list[str]:
    """Everything that can be told to be wrong without building anything."""
    problems = check_values(cfg, RootConfig, "")
    if problems:  # the groups may be missing altogether
        return problems
    for group, contract in COMPONENTS.items():
        problems += check(cfg[group], contract, group)
    for group, contract in COLLECTIONS.items():
        for name, node in cfg[group].items():
            if node is not None:
                problems += check(node, contract, f"{group}.{name}")
    problems += check_values(cfg["hardware"], HardwareSettings, "hardware")
    problems += check(cfg["hardware"].get("target"), Target, "hardware.target")
    problems += check_values(cfg["trainer"], TrainerSettings, "trainer")
    for name, node in cfg["phase"].items():
        problems += check_values(node, PhaseConfig, f"phase.{name}")
    if not any(node is not None for node in cfg["loss"].values()):
        problems.append("loss: give at least one term; training would minimise nothing.")
    return problems + _contradictions(cfg)


def _contradictions(cfg: Mapping[str, Any]) -> list[str]:
    """Keys that are fine alone but not together."""
    problems = []
    if cfg["mode"] in ("evaluate", "predict") and cfg["run"] is None:
        problems.append(f"mode={cfg['mode']} needs run=<directory of a finished run>.")
    if cfg["mode"] in ("train", "check") and cfg["run"] is not None:
        problems.append(
            f"run: is for mode=evaluate and mode=predict, not mode={cfg['mode']}. "
            "Use resume=<run> to continue a run, init_from=<run> to start from its weights."
        )
    if cfg["resume"] is not None and cfg["init_from"] is not None:
        problems.append("resume and init_from exclude each other.")
    return problems


def check_metrics(settings: TrainerSettings, tasks: tuple[str, ...], continual: bool) -> list[str]:
    """Monitored metric and objective must be ones that this run produces."""
    validated = ("val/accuracy", "val/loss")
    tested = [f"test/{m}" for m in ("accuracy", "loss")]
    tested += [f"test/{t}/{m}" for t in tasks for m in ("accuracy", "loss")]
    if continual:
        tested += [f"continual/{m}" for m in ("acc", "bwt", "fwt", "forgetting")]
    problems = []
    for key, value, names in (
        ("monitor", settings.monitor, validated),
        ("objective", settings.objective, (*tested, *validated)),
    ):
        if value not in names:
            problems.append(
                f"trainer.{key}: this run produces no '{value}'. Allowed: {', '.join(names)}."
                + nearest(value, names)
            )
    return problems
