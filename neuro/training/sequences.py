"""Forward and backward pass of a micro-batch: whole or in chunks, with or without streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuro.config.trainer import Stateful, Truncation
from neuro.data.base import Batch, DataSource, Split
from neuro.errors import ConfigError
from neuro.learning.objective import Loss, Objective
from neuro.learning.sequences.streams import Streams
from neuro.learning.sequences.truncation import Chunk, chunks, joined
from neuro.learning.terms import Count
from neuro.models.base import CoreModel
from neuro.training.phases import PhasePlan

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def streams_for(split: Split, model: CoreModel, stateful: Stateful) -> Streams | None:
    """New streams for a split; None if every batch starts from the initial state."""
    on = {"train": stateful.training, "val": stateful.validation, "test": stateful.test}[split]
    if not on:
        return None
    # a generator of its own: validations must not change training, and tests must be repeatable
    generator = None if split == "train" else torch.Generator().manual_seed(0)
    return Streams(model, stateful.take, stateful.reset == "document", generator)


def check_streams(stateful: Stateful, plan: Sequence[PhasePlan], data: DataSource) -> Iterator[str]:
    """Problems of `trainer.stateful` and the phases' `carry.state`."""
    for phase in plan:
        if phase.carry_state and not stateful.training:
            yield (
                f"phase.{phase.name}.carry.state: no state is kept from batch to batch; set "
                "trainer.stateful.training=true."
            )
        elif phase.carry_state and stateful.reset == "epoch":
            yield (
                f"phase.{phase.name}.carry.state: trainer.stateful.reset=epoch leaves no state at "
                "the end of a phase; set trainer.stateful.reset=document or never."
            )
    if stateful.reset == "document":
        tested = [task for phase in plan for task in phase.evaluate] if stateful.test else []
        trained = [task for phase in plan for task in phase.tasks]
        for task in dict.fromkeys([*trained, *tested]):
            if not data.spec(task).documents:
                yield (
                    f"trainer.stateful.reset: document needs batches that mark which sequences "
                    f"begin a document, and those of task '{task}' ({type(data).__name__}) do not. "
                    "Set trainer.stateful.reset=epoch or never."
                )


class SequenceRunner:
    """Runs training batches as configured by `trainer.tbptt` and `trainer.stateful`.

    `streams` hold the states between training batches; None without stateful training.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: CoreModel,
        objective: Objective,
        tbptt: Truncation | None,
        stateful: Stateful,
    ):
        self._fabric = fabric
        self._objective = objective
        self._tbptt = tbptt
        self._stateful = stateful
        self.streams = streams_for("train", model, stateful)

    def learn(self, step: Any, batch: Batch, totals: Mapping[str, Count], *, last: bool) -> Loss:
        """Compute the loss of a micro-batch, and add its gradients to those of the update.

        - `step`: the wrapped TrainStep
        - `totals`: counts of the whole update by term
        - `last`: whether it is the last micro-batch of the update
        """
        parts = self._parts(batch)
        state = None if self.streams is None else self.streams.start(batch)
        carries = self.streams is not None or len(parts) > 1
        losses: list[Loss] = []
        for i, part in enumerate(parts):
            waits = not last or i < len(parts) - 1
            options: dict[str, Any] = {}
            if carries:
                options = {**part._asdict(), "state": state, "keep_state": True}
                del options["batch"]
            with self._without_exchange(step, waits):
                loss: Loss = step(part.batch, totals=totals, **options)
                if loss.total.requires_grad:
                    self._fabric.backward(loss.total)
            state = loss.state
            losses.append(loss._replace(total=loss.total.detach()))
        if self.streams is not None:
            self.streams.keep(state)
        return joined(self._objective, batch.targets, losses, [part.share for part in parts])

    def _without_exchange(self, step: Any, waits: bool) -> AbstractContextManager[None]:
        """With `waits`, processes do not exchange gradients within the block."""
        if self._fabric.world_size == 1:
            return nullcontext()
        return self._fabric.no_backward_sync(step, enabled=waits)

    def end_epoch(self) -> None:
        """Reset the streams that last for an epoch."""
        if self.streams is not None and self._stateful.reset == "epoch":
            self.streams.reset()

    def end_phase(self, carry: bool) -> None:
        """Reset the streams unless the next phase continues them (`phase.<name>.carry.state`)."""
        if self.streams is not None and not carry:
            self.streams.reset()

    def skipped(self) -> None:
        """After an update that may have been skipped, reset streams whose state is not finite."""
        if self.streams is not None:
            self.streams.reset_not_finite()

    def state_dict(self) -> dict[str, Tensor]:
        """The state of this process's streams."""
        return {} if self.streams is None else self.streams.state_dict()

    def load_state_dict(
        self, saved: Sequence[Mapping[str, Tensor]], data: DataSource, saved_batch_size: int
    ) -> None:
        """Load the results of `state_dict` of all processes.

        ConfigError if the number of streams differs from that of the checkpoint.
        """
        if self.streams is None:
            return
        if any(saved) and self._stateful.take == "stream" and data.batch_size != saved_batch_size:
            key = f"data.{data.batch_key}"
            raise ConfigError(
                f"{key}: got {data.batch_size}, but the checkpoint holds the states of "
                f"{saved_batch_size} streams, one for each sequence of a batch "
                f"(trainer.stateful). Resume with {key}={saved_batch_size}, or start a "
                "new run with init_from=<run>."
            )
        self.streams.load_state_dict(saved, self._fabric.global_rank, self._fabric.world_size)

    def _parts(self, batch: Batch) -> list[Chunk]:
        """The chunks of a batch under truncated backpropagation, else the batch as one."""
        if self._tbptt is None:
            return [Chunk(batch)]
        per_step = self._objective.mapping == "seq2seq"
        if batch.lengths is not None and not per_step:
            raise ConfigError(
                "trainer.tbptt: sequences of different lengths cannot be pooled in chunks. Set "
                "trainer.tbptt=null, or use objective.mapping=seq2seq."
            )
        return list(
            chunks(
                batch,
                self._tbptt.length,
                self._tbptt.steps,
                per_step=per_step,
                only_last=not per_step and self._objective.pooling.of_the_end,
            )
        )
