"""What a run leaves behind to go on from, and the ends that it does not leave without saving.

A checkpoint is gathered from all processes and written by the main one. The optimizer's state is
taken back by the phase that makes the optimizer, everything else by `Saver.restore`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from neuro.errors import ConfigError, DivergedError, Interrupted, OutOfMemoryError
from neuro.io import checkpoint
from neuro.io.files import hard_link
from neuro.models.weights import load_weights
from neuro.runtime import randomness
from neuro.runtime.distributed import gathered

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.training.trainer import Trainer


class Saver:
    """Writes a trainer's checkpoints, and takes a trainer back to one of them.

    `metrics_length` tells how much of metrics.jsonl a checkpoint covers.
    """

    def __init__(self, trainer: Trainer, metrics_length: Callable[[], int]):
        self._trainer = trainer
        self._metrics_length = metrics_length

    def path(self, name: str) -> Path:
        """The file of a checkpoint."""
        return self._trainer.checkpoints / f"{name}{checkpoint.SUFFIX}"

    def save(self, name: str, periodic: bool = False, alone: bool = False) -> None:
        """Write a checkpoint; with `periodic`, keep numbered ones beside it as configured.

        `alone`: other processes may not come here, so nothing is gathered from them.
        """
        trainer = self._trainer
        trainer.tracker.flush()
        everyone = self._gather(alone)
        if not trainer.is_main:
            return
        path = self.path(name)
        checkpoint.save(path, {**self._state(), **everyone})
        if periodic and trainer.settings.keep:
            checkpoint.keep_copy(path, trainer.progress.step, trainer.settings.keep)

    def save_best(self) -> None:
        """Write the checkpoint of the phase's best validation, under the run's name for it too.

        Where the metric is one of averaged weights these are saved, alone.
        """
        name = f"{self._trainer.phase.name}-best"
        with self._trainer.validated_weights(self._trainer.settings.monitor) as others:
            if others:
                self.save_weights(name, also="best")
                return
        self.save(name)
        if self._trainer.is_main:
            hard_link(self.path(name), self.path("best"))

    def best_weights(self) -> Mapping[str, Any]:
        """The model's tensors at the phase's best validation; all processes join."""
        self._trainer.fabric.barrier()  # the main process has written it
        weights: Mapping[str, Any] = checkpoint.load(self.path(f"{self._trainer.phase.name}-best"))[
            "model"
        ]
        return weights

    def save_weights(self, name: str, also: str) -> None:
        """Save the model as it is now, for evaluation and `init_from`, under two names."""
        trainer = self._trainer
        if trainer.is_main:
            state = {
                "model": trainer.model.state_dict(),
                "objective": trainer.objective.state_dict(),
                "progress": asdict(trainer.progress),
            }
            checkpoint.save(self.path(name), state)
            hard_link(self.path(name), self.path(also))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take everything but the optimizer (made by its phase) back from a checkpoint."""
        trainer = self._trainer
        load_weights(trainer.model, state["model"], "the checkpoint")
        trainer.objective.load_state_dict(state["objective"])
        trainer.fabric.strategy.precision.load_state_dict(state["scaler"])
        for name, callback in trainer.callbacks.items():
            if name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][name])
        self._restore_position(state)
        if trainer.progress.entered:
            trainer.phase.schedule.load_state_dict(state["schedule"])
        self._refuse_new_lengths(state["lengths"])
        trainer.best = self._best_before(state)
        trainer.sequences.load_state_dict(
            state["sequences"], trainer.data.batch_size, state["batch_size"]
        )
        loaders = state.get("loaders", {})  # older checkpoints have none
        for phase in trainer.plan:
            if phase.name in loaders:
                phase.loader.load_state_dict(loaders[phase.name])
        trainer.found = state["found_lr"]
        trainer.rows = state["rows"]
        trainer.initial = state["initial"]
        trainer.validation = state["validation"]
        fabric = trainer.fabric
        trainer.meter.load_state_dict(
            state["meter"], fabric.global_rank, fabric.world_size, fabric.device
        )

    def _gather(self, alone: bool) -> dict[str, Any]:
        """What differs between processes, for a checkpoint that the main one writes."""
        trainer = self._trainer
        own = {
            "meter": trainer.meter.state_dict(),
            "rng": randomness.capture(),
            "sequences": trainer.sequences.state_dict(),
        }
        states = [own] if alone else gathered(own)
        return {name: [state[name] for state in states] for name in own}

    def _state(self) -> dict[str, Any]:
        """What is the same in all processes."""
        trainer = self._trainer
        loaders = {phase.name: phase.loader.state_dict() for phase in trainer.plan}
        return {
            "model": trainer.model.state_dict(),
            "objective": trainer.objective.state_dict(),
            "optimizer": trainer.optimizer_state() if trainer.progress.entered else trainer.carried,
            "schedule": trainer.phase.schedule.state_dict(),
            "scaler": trainer.fabric.strategy.precision.state_dict(),
            "callbacks": {name: cb.state_dict() for name, cb in trainer.callbacks.items()},
            "progress": asdict(trainer.progress),
            "phase": trainer.phase.name,
            "lengths": {phase.name: [phase.epochs, phase.steps] for phase in trainer.plan},
            "batch_size": trainer.data.batch_size,
            "loaders": {name: state for name, state in loaders.items() if state},
            "best": trainer.best,
            "found_lr": trainer.found,
            "rows": trainer.rows,
            "initial": trainer.initial,
            "validation": trainer.validation,
            "metrics_length": self._metrics_length(),
        }

    def _restore_position(self, state: Mapping[str, Any]) -> None:
        """Counters and phase, converted to the data's batch size if that has changed."""
        trainer = self._trainer
        progress = trainer.progress = replace(trainer.progress, **state["progress"])
        progress.batch = progress.batch * state["batch_size"] // trainer.data.batch_size
        phase = trainer.phase = trainer.plan[min(progress.phase_index, len(trainer.plan) - 1)]
        if progress.batch >= len(phase.loader):  # saved while an epoch was ending
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if phase.steps is None:  # so that a schedule is as far as the samples are
            groups = math.ceil(progress.batch / trainer.settings.accumulate)
            progress.phase_step = progress.epoch * phase.steps_per_epoch + groups

    def _refuse_new_lengths(self, before: Mapping[str, Sequence[int | None]]) -> None:
        """ConfigError if a phase that is behind us was given another length."""
        for phase in self._trainer.plan[: self._trainer.progress.phase_index]:
            if before[phase.name] != [phase.epochs, phase.steps]:
                raise ConfigError(
                    f"phase.{phase.name}: this phase is finished, so its epochs or steps can no "
                    "longer change. Start a new run with init_from to train on."
                )

    def _best_before(self, state: Mapping[str, Any]) -> float | None:
        """The best value so far, unless its checkpoint has since made way for a later one.

        That one is made again when the run goes on as it did before; if it does not, its weights
        belong to a future that does not come.
        """
        path = self.path(f"{self._trainer.phase.name}-best")
        if state["best"] is None or not path.is_file():
            return None
        kept: int = checkpoint.load(path)["progress"]["step"]
        return state["best"] if kept <= self._trainer.progress.step else None


def asked_to_stop(trainer: Trainer) -> bool:
    """Whether a signal came to any process; all of them join."""
    asked = trainer.interrupted()
    if trainer.fabric.world_size == 1:
        return asked
    flag = trainer.fabric.to_device(torch.tensor(float(asked)))
    return bool(trainer.sum_over_processes(flag) > 0)


def stop_if_asked(trainer: Trainer) -> None:
    """Save and leave between two updates when a signal came to any process."""
    if asked_to_stop(trainer):
        trainer.saver.save("last")
        raise Interrupted(f"Interrupted at update {trainer.progress.step}; the run was saved.")


def stop_if_diverged(trainer: Trainer) -> None:
    """Save and leave when too many updates in a row were skipped."""
    progress = trainer.progress
    in_a_row = progress.skipped_in_a_row
    allowed = trainer.settings.max_skipped
    if allowed is not None and in_a_row >= allowed:
        progress.skipped_in_a_row = 0  # a resumed run has as many again
        trainer.saver.save("last")
        raise DivergedError(
            f"Training diverged: {in_a_row} updates in a row had a "
            f"non-finite loss or gradient (update {progress.step}). Weights from before are "
            f"in {trainer.saver.path('last')}. Try a lower optimizer.lr or "
            "trainer.clip_norm=1."
        )


def raise_if_out_of_memory(trainer: Trainer, error: BaseException) -> None:
    """If that is what an error says: save what the run has, and say what to try."""
    memory_error = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if not memory_error and "allocate memory" not in str(error):
        return
    step = trainer.progress.step
    saved = "the last checkpoint was kept"
    streams = trainer.sequences.streams is not None  # divided among processes
    if trainer.in_epochs and not (streams and trainer.fabric.world_size > 1):
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.saver.save("last", alone=True)
        saved = f"everything up to update {step} was saved"
    advice = ["hardware.precision=bf16-mixed", "trainer.tbptt={length: <frames>} in a new run"]
    if trainer.data.batch_size > 1 and not streams:
        advice.insert(
            0,
            f"data.batch_size={trainer.data.batch_size // 2} with "
            f"trainer.accumulate={2 * trainer.settings.accumulate}",
        )
    raise OutOfMemoryError(
        f"Out of memory after update {step}; {saved}. Try {', or '.join(advice)}."
    ) from error
