"""State of training: collection and restoration of the content of checkpoints.

The trainer changes it, `saving.py` writes it, and `lr_find.py` restores it after a range test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from neuro.config.trainer import TrainerSettings
from neuro.data.base import DataSource
from neuro.errors import ConfigError
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights
from neuro.runtime import randomness
from neuro.runtime.distributed import gathered
from neuro.training.callbacks.base import Callback
from neuro.training.meter import Meter
from neuro.training.optimizer_state import state_by_name
from neuro.training.phases import PhasePlan
from neuro.training.progress import Progress
from neuro.training.sequences import SequenceRunner

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: metrics by task
Row = dict[str, dict[str, float]]


class TrainState:
    """Progress and results of training, and the objects whose state a checkpoint holds.

    - `phase`, `optimizer`: those of the current phase (optimizer None before the first)
    - `carried_optimizer`: the optimizer's state that the next phase takes over
    - `best`: best value of the monitored metric in the phase
    - `found_lr`: learning rates of phases with lr=auto
    - `rows`: test metrics after each phase; `initial`: those before the first phase
    - `validation`: metrics of the last validation
    """

    def __init__(
        self,
        fabric: Fabric,
        model: CoreModel,
        data: DataSource,
        objective: Objective,
        plan: Sequence[PhasePlan],
        settings: TrainerSettings,
        callbacks: Mapping[str, Callback],
    ):
        self.fabric = fabric
        self.model = model
        self.data = data
        self.objective = objective
        self.plan = tuple(plan)
        self.settings = settings
        self.callbacks = callbacks
        self.progress = Progress()
        self.phase = self.plan[0]
        self.optimizer: torch.optim.Optimizer | None = None
        self.carried_optimizer: dict[str, Any] = {}
        self.best: float | None = None
        self.found_lr: dict[str, float] = {}
        self.rows: list[Row] = []
        self.initial: Row = {}
        self.validation: dict[str, float] = {}
        self.meter = Meter(objective.metrics)
        self.sequences = SequenceRunner(fabric, model, objective, settings.tbptt, settings.stateful)

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state (momenta, counts) by the names of the parameters."""
        assert self.optimizer is not None
        return state_by_name(self.optimizer, dict(self.model.named_parameters()))

    def state_dict(self, alone: bool = False) -> dict[str, Any]:
        """Tensors and plain JSON values, gathered from all processes; a collective operation.

        `alone`: gather nothing from other processes, which may not reach this call.
        """
        own = {
            "meter": self.meter.state_dict(),
            "rng": randomness.capture(),
            "sequences": self.sequences.state_dict(),
        }
        states = [own] if alone else gathered(own)
        loaders = {phase.name: phase.loader.state_dict() for phase in self.plan}
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer_state()
            if self.progress.entered
            else self.carried_optimizer,
            "schedule": self.phase.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "callbacks": {name: cb.state_dict() for name, cb in self.callbacks.items()},
            "progress": asdict(self.progress),
            "phase": self.phase.name,
            "lengths": {phase.name: [phase.epochs, phase.steps] for phase in self.plan},
            "batch_size": self.data.batch_size,
            "best": self.best,
            "found_lr": self.found_lr,
            "rows": self.rows,
            "initial": self.initial,
            "validation": self.validation,
            "loaders": {name: state for name, state in loaders.items() if state},
            **{name: [state[name] for state in states] for name in own},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all but the optimizer and the generators, which the trainer restores later."""
        load_weights(self.model, state["model"], "the checkpoint")
        self.objective.load_state_dict(state["objective"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        for name, callback in self.callbacks.items():
            if name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][name])
        self._restore_position(state)
        if self.progress.entered:
            self.phase.schedule.load_state_dict(state["schedule"])
        self._refuse_new_lengths(state["lengths"])
        self.best = state["best"]
        self.sequences.load_state_dict(state["sequences"], self.data, state["batch_size"])
        loaders = state.get("loaders", {})  # older checkpoints have none
        for phase in self.plan:
            if phase.name in loaders:
                phase.loader.load_state_dict(loaders[phase.name])
        self.found_lr = state["found_lr"]
        self.rows = state["rows"]
        self.initial = state["initial"]
        self.validation = state["validation"]
        fabric = self.fabric
        self.meter.load_state_dict(
            state["meter"], fabric.global_rank, fabric.world_size, fabric.device
        )

    def _restore_position(self, state: Mapping[str, Any]) -> None:
        """Counters and phase, converted to the data's batch size if that has changed."""
        progress = self.progress = replace(self.progress, **state["progress"])
        progress.batch = progress.batch * state["batch_size"] // self.data.batch_size
        phase = self.phase = self.plan[min(progress.phase_index, len(self.plan) - 1)]
        if progress.batch >= len(phase.loader):  # saved at the end of an epoch
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if phase.steps is None:  # with another batch size, updates follow from the samples seen
            groups = math.ceil(progress.batch / self.settings.accumulate)
            progress.phase_step = progress.epoch * phase.steps_per_epoch + groups

    def _refuse_new_lengths(self, before: Mapping[str, Sequence[int | None]]) -> None:
        """ConfigError if the length of a finished phase has changed."""
        for phase in self.plan[: self.progress.phase_index]:
            if before[phase.name] != [phase.epochs, phase.steps]:
                raise ConfigError(
                    f"phase.{phase.name}: this phase is finished, so its epochs or steps can no "
                    "longer change. Start a new run with init_from to train on."
                )
