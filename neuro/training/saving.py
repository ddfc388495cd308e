"""Save the checkpoints of a run, also before training stops by a signal or an error.

The content is gathered from all processes and written by the main one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from neuro.errors import DivergedError, Interrupted, OutOfMemoryError
from neuro.io import checkpoint
from neuro.io.files import hard_link
from neuro.training.state import TrainState


class Saver:
    """Writes the checkpoints of a run into `directory`.

    `flush` makes the trackers write buffered values; `metrics_length` returns the bytes of
    metrics.jsonl after it, to which a resumed run truncates the file.
    """

    def __init__(
        self,
        directory: Path,
        state: TrainState,
        flush: Callable[[], None],
        metrics_length: Callable[[], int],
    ):
        self.directory = directory
        self.state = state
        self._flush = flush
        self._metrics_length = metrics_length

    @property
    def _is_main(self) -> bool:
        return self.state.fabric.is_global_zero

    def path(self, name: str) -> Path:
        """The file of a checkpoint."""
        return self.directory / f"{name}{checkpoint.SUFFIX}"

    def save(self, name: str, periodic: bool = False, alone: bool = False) -> None:
        """Write a checkpoint; with `periodic`, keep numbered ones beside it as configured.

        `alone`: gather nothing from other processes, which may not reach this call.
        """
        self._flush()
        content = self.state.state_dict(alone)
        if not self._is_main:
            return
        path = self.path(name)
        checkpoint.save(path, {**content, "metrics_length": self._metrics_length()})
        if periodic and self.state.settings.keep:
            checkpoint.keep_copy(path, self.state.progress.step, self.state.settings.keep)

    def save_best(self, weights_only: bool) -> None:
        """Write the checkpoint of the phase's best validation, also as `best`.

        `weights_only`: the model has averaged or rounded weights, to which the rest of the training
        state does not belong.
        """
        name = f"{self.state.phase.name}-best"
        if weights_only:
            self.save_weights(name, also="best")
            return
        self.save(name)
        if self._is_main:
            hard_link(self.path(name), self.path("best"))

    def best_weights(self) -> Mapping[str, Any]:
        """The model's tensors at the phase's best validation; a collective operation."""
        self.state.fabric.barrier()  # the main process has written it
        path = self.path(f"{self.state.phase.name}-best")
        weights: Mapping[str, Any] = checkpoint.load(path)["model"]
        return weights

    def has_best(self) -> bool:
        """True if the checkpoint of the phase's best validation is from an update made so far.

        After a resume from an earlier checkpoint it may be from a later update; it is then written
        again when training reaches that update.
        """
        path = self.path(f"{self.state.phase.name}-best")
        if not path.is_file():
            return False
        step: int = checkpoint.load(path)["progress"]["step"]
        return step <= self.state.progress.step

    def save_weights(self, name: str, also: str) -> None:
        """Save the model's current weights, for evaluation and `init_from`, under two names."""
        if self._is_main:
            state = {
                "model": self.state.model.state_dict(),
                "objective": self.state.objective.state_dict(),
                "progress": asdict(self.state.progress),
            }
            checkpoint.save(self.path(name), state)
            hard_link(self.path(name), self.path(also))


def stop_if_interrupted(interrupted: bool, saver: Saver) -> None:
    """If any process has received a stop signal, save a checkpoint and raise Interrupted."""
    if interrupted:
        saver.save("last")
        step = saver.state.progress.step
        raise Interrupted(f"Interrupted at update {step}; the run was saved.")


def stop_if_diverged(saver: Saver) -> None:
    """If too many updates in a row were skipped, save a checkpoint and raise DivergedError."""
    progress = saver.state.progress
    in_a_row = progress.skipped_in_a_row
    allowed = saver.state.settings.max_skipped
    if allowed is not None and in_a_row >= allowed:
        progress.skipped_in_a_row = 0  # a resumed run may skip as many again
        saver.save("last")
        raise DivergedError(
            f"Training diverged: {in_a_row} updates in a row had a "
            f"non-finite loss or gradient (update {progress.step}). Weights from before are "
            f"in {saver.path('last')}. Try a lower optimizer.lr or "
            "trainer.clip_norm=1."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    memory_error = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return memory_error or "allocate memory" in str(error)


def raise_if_out_of_memory(error: BaseException, saver: Saver, *, in_epochs: bool) -> None:
    """If memory ran out, save a checkpoint and raise OutOfMemoryError with advice.

    The state can be saved only `in_epochs`: it is inconsistent while a phase starts or ends.
    """
    if not is_out_of_memory(error):
        return
    state = saver.state
    step = state.progress.step
    saved = "the last checkpoint was kept"
    streams = state.sequences.streams is not None  # divided among processes
    if in_epochs and state.optimizer is not None and not (streams and state.fabric.world_size > 1):
        state.optimizer.zero_grad(set_to_none=True)
        saver.save("last", alone=True)
        saved = f"everything up to update {step} was saved"
    advice = ["hardware.precision=bf16-mixed", "trainer.tbptt={length: <frames>} in a new run"]
    if state.data.batch_size > 1 and not streams:
        advice.insert(
            0,
            f"data.{state.data.batch_key}={state.data.batch_size // 2} with "
            f"trainer.accumulate={2 * state.settings.accumulate}",
        )
    elif state.data.batch_size > 1:  # a stream's state cannot be resumed with fewer of them
        advice.append(
            f"data.{state.data.batch_key}={state.data.batch_size // 2} in a new run "
            "(init_from=<this run>)"
        )
    raise OutOfMemoryError(
        f"Out of memory after update {step}; {saved}. Try {', or '.join(advice)}."
    ) from error
