"""Streams: sequences that continue from batch to batch, with a state that lives on between them.

Each place in the batch is a stream of its own, or the final state of one sample is where all
sequences of the next batch start. A stream begins at the model's initial state, and begins anew
where a batch says so (`Batch.starts`, `reset=document`) or its owner calls `reset`.
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
    """The states that the next batch starts from.

    `take`: `stream` continues in each place of the batch; `random`, `first` and `last` choose one
    sample, from whose final state all sequences of the next batch start. With `documents`,
    sequences that begin a document start from the initial state. `random` draws from `generator`,
    or from torch's own.
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
        """The state for a batch; None is the initial state of all its sequences.

        A smaller batch takes the first streams; those that a larger one has more are new.
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
        """Remember the final state of a batch; streams that had no part in it stay as they are."""
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
        """Let the next batch start from the initial state."""
        self.state = None

    def reset_not_finite(self) -> None:
        """Begin streams anew whose state would make every batch to come non-finite."""
        count = _streams(self.state)
        if count > 0:
            broken = ~states.finite(self.state)  # stays on the device
            self.state = states.reset(self.state, self.model.initial_state(count), broken)

    def state_dict(self) -> dict[str, Tensor]:
        """The state's tensors by name, on the CPU; empty where it is the initial one."""
        return {name: x.cpu() for name, x in states.named_tensors(self.state).items()}

    def load_state_dict(
        self, saved: Sequence[Mapping[str, Tensor]], rank: int = 0, world_size: int = 1
    ) -> None:
        """Restore what `state_dict` gave on each process, or divide it anew among others."""
        if not any(saved):
            self.reset()
            return
        mine = saved[rank % len(saved)]
        if len(saved) != world_size and self.take == "stream":
            together = {name: torch.cat([part[name] for part in saved]) for name in saved[0]}
            mine = {name: x.tensor_split(world_size)[rank] for name, x in together.items()}
        self.state = states.with_tensors(self.model.initial_state(1), mine)


def _streams(state: Any) -> int:
    """The number of sequences in a state; 0 for the state of a model that has none."""
    return next((len(x) for x in states.tensors_of(state)), 0)
