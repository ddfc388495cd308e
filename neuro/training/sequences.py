"""One micro-batch, forward and backward: in one piece or in chunks, from rest or carried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, distributed

from neuro.config.trainer import Stateful, Truncation
from neuro.data.base import Batch
from neuro.learning.objective import Count, Loss, Objective
from neuro.learning.sequences.streams import Streams
from neuro.learning.sequences.truncation import Chunk, chunks, joined
from neuro.models.base import CoreModel


class SequenceRunner:
    """Runs batches of sequences as `trainer.tbptt` and `trainer.stateful` say."""

    def __init__(
        self,
        fabric: Fabric,
        model: CoreModel,
        objective: Objective,
        tbptt: Truncation | None,
        stateful: Stateful,
    ):
        self._fabric = fabric
        self._model = model
        self._objective = objective
        self._tbptt = tbptt
        self._stateful = stateful
        self._streams = Streams(model, stateful.take) if stateful.training else None

    def learn(self, step: Any, batch: Batch, totals: Mapping[str, Count], *, last: bool) -> Loss:
        """Loss of a micro-batch, with its gradients added to those of the update.

        `step` is the wrapped TrainStep, `totals` are the counts of the whole update by term, `last`
        says that the update has no further micro-batch.
        """
        parts = self._parts(batch)
        state = None if self._streams is None else self._streams.start(len(batch.targets))
        carries = self._streams is not None or len(parts) > 1
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
        if self._streams is not None:
            self._streams.keep(state)
        return joined(self._objective, batch.targets, losses, [part.share for part in parts])

    def _without_exchange(self, step: Any, waits: bool) -> AbstractContextManager[None]:
        """Several processes exchange no gradients in it, if they are to wait with that."""
        if self._fabric.world_size == 1:
            return nullcontext()
        return self._fabric.no_backward_sync(step, enabled=waits)

    def validation_streams(self) -> Streams | None:
        """Fresh streams for a validation, if it is stateful."""
        return Streams(self._model, self._stateful.take) if self._stateful.validation else None

    def reset(self) -> None:
        """An epoch or phase ends: the next batch starts from rest."""
        if self._streams is not None:
            self._streams.reset()

    def skipped(self) -> None:
        """The update was not finite: a state that is not either is forgotten."""
        if self._streams is not None:
            self._streams.reset_if_not_finite()

    def state_dict(self, alone: bool = False) -> list[dict[str, Tensor]]:
        """The carried states of all processes, which must call it together unless `alone`.

        `alone` among several, no state is whole, and the sequences will go on from rest.
        """
        own = {} if self._streams is None else self._streams.state_dict()
        if self._streams is None or self._fabric.world_size == 1:
            return [own]
        if alone:
            return []
        # on the CPU, and as objects, because the processes' last batches differ in size
        everyone: list[Any] = [None] * self._fabric.world_size
        distributed.all_gather_object(everyone, {name: x.cpu() for name, x in own.items()})
        return everyone

    def load_state_dict(self, saved: Sequence[Mapping[str, Tensor]]) -> None:
        """Take back what `state_dict` gave."""
        if self._streams is not None:
            self._streams.load_state_dict(saved, self._fabric.global_rank, self._fabric.world_size)

    def _parts(self, batch: Batch) -> list[Chunk]:
        if self._tbptt is None:
            return [Chunk(batch)]
        per_step = self._objective.mapping == "seq2seq"
        return list(chunks(batch, self._tbptt.length, self._tbptt.steps, per_step=per_step))
