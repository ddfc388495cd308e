"""Streams: sequences that continue from batch to batch, with their states kept in between.

Each position in the batch is a stream, or the final state of one sample is the initial state of all
sequences of the next batch. A stream starts with the model's initial state. It is reset where a
batch marks a new document (`Batch.starts`, `reset=document`), and by `reset`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuro.config.trainer import Take
from neuro.data.base import Batch
from neuro.models import state as states
from neuro.models.base import CoreModel


class Streams:
    """The initial states of the next batch.

    - `take`: `stream` continues each position of the batch; `random`, `first` and `last` select one
      sample, whose final state is the initial state of all sequences of the next batch
    - `documents`: sequences that begin a document start from the model's initial state
    - `generator`: random numbers of `random`; None: those of torch
    """

    def __init__(
        self,
        model: CoreModel,
        take: Take,
        documents: bool = False,
        generator: torch.Generator | None = None,
    ):
        self.model = model
        self.take = take
        self.documents = documents
        self.generator = generator
        #: states of all streams; None: the next batch starts from the initial state
        self.state: Any = None

    def start(self, batch: Batch) -> Any:
        """The state for a batch; None if all its sequences start from the initial state.

        A smaller batch uses the first streams; a larger one adds new streams.
        """
        if self.state is None:
            return None
        count = len(batch.targets)
        if self.take == "stream":
            state = states.select(self.state, slice(count))
            missing = count - _streams(state)
            if missing > 0:
                state = states.concat(state, self.model.initial_state(missing))
        else:
            state = states.map_state(
                lambda x: x.expand(count, *x.shape[1:]).contiguous(), self.state
            )
        if self.documents and batch.starts is not None:
            state = states.reset(state, self.model.initial_state(count), batch.starts)
        return state

    def keep(self, state: Any) -> None:
        """Store the final state of a batch; streams that it did not use are not changed."""
        count = _streams(state)
        if self.take == "stream":
            if 0 < count < _streams(self.state):
                state = states.concat(state, states.select(self.state, slice(count, None)))
        elif count > 0:
            match self.take:
                case "random":
                    chosen = int(torch.randint(count, (), generator=self.generator))
                case "first":
                    chosen = 0
                case _:
                    chosen = count - 1
            state = states.select(state, slice(chosen, chosen + 1))
        self.state = state

    def reset(self) -> None:
        """Start the next batch from the initial state."""
        self.state = None

    def reset_not_finite(self) -> None:
        """Reset streams whose state is not finite, as would be all their later states."""
        count = _streams(self.state)
        if count > 0:
            broken = ~states.finite(self.state)  # stays on the device
            self.state = states.reset(self.state, self.model.initial_state(count), broken)

    def state_dict(self) -> dict[str, Tensor]:
        """The state's tensors by name, on the CPU; empty for the initial state."""
        return {name: x.cpu() for name, x in states.named_tensors(self.state).items()}

    def load_state_dict(
        self, saved: Sequence[Mapping[str, Tensor]], rank: int = 0, world_size: int = 1
    ) -> None:
        """Load the results of `state_dict` of all processes, divided if their number changed."""
        if not any(saved):
            self.reset()
            return
        mine = saved[rank % len(saved)]
        if len(saved) != world_size and self.take == "stream":
            together = {name: torch.cat([part[name] for part in saved]) for name in saved[0]}
            mine = {name: x.tensor_split(world_size)[rank] for name, x in together.items()}
        self.state = states.with_tensors(self.model.initial_state(1), mine)


def _streams(state: Any) -> int:
    """The number of sequences in a state; 0 for a model without state."""
    return next((len(x) for x in states.tensors_of(state)), 0)
