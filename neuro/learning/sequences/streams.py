"""Stateful sequences: the state in which a batch ends is where the next batch begins.

Each place in the batch is a stream of its own, or one sample's final state starts all sequences of
the next batch. Epochs begin at rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuro.config.trainer import Take
from neuro.models.base import CoreModel
from neuro.models.state import map_state, named_tensors, tensors_of, with_tensors


class Streams:
    """The states that the next batch starts from; None while it starts from rest.

    `take`: `stream` goes on in each place of the batch; `random`, `first` and `last` choose one
    sample, whose final state all of the next batch's sequences start from.
    """

    def __init__(self, model: CoreModel, take: Take):
        self.model = model
        self.take = take
        self._state: Any = None

    def start(self, count: int) -> Any:
        """The state for a batch of `count` sequences.

        A smaller batch takes the first streams; those that a larger one has more are at rest.
        """
        if self._state is None:
            return None
        if self.take != "stream":
            return map_state(lambda x: x.expand(count, *x.shape[1:]).contiguous(), self._state)
        rest = iter(tensors_of(self.model.initial_state(count)))
        return map_state(lambda x: _sized(x, next(rest)), self._state)

    def keep(self, state: Any) -> None:
        """Remember the final state of a batch."""
        size = next((len(x) for x in tensors_of(state)), 0)
        if self.take == "stream" or size == 0:
            self._state = state
            return
        match self.take:
            case "random":
                chosen = int(torch.randint(size, ()))
            case "first":
                chosen = 0
            case _:
                chosen = size - 1
        self._state = map_state(lambda x: x[chosen : chosen + 1], state)

    def reset(self) -> None:
        """Let the next batch start from rest."""
        self._state = None

    def reset_if_not_finite(self) -> None:
        """Forget a state that would spoil every batch to come."""
        if not all(bool(x.isfinite().all()) for x in tensors_of(self._state)):
            self.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """The state's tensors by field names; empty at rest."""
        return named_tensors(self._state)

    def load_state_dict(
        self, saved: Sequence[Mapping[str, Tensor]], rank: int = 0, world_size: int = 1
    ) -> None:
        """Take back what `state_dict` gave on each process, or divide it anew among others."""
        if not any(saved):
            self.reset()
            return
        mine = saved[rank % len(saved)]
        if len(saved) != world_size and self.take == "stream":
            together = {name: torch.cat([part[name] for part in saved]) for name in saved[0]}
            mine = {name: x.tensor_split(world_size)[rank] for name, x in together.items()}
        self._state = with_tensors(self.model.initial_state(1), mine)


def _sized(kept: Tensor, rest: Tensor) -> Tensor:
    """`kept` `[N, ...]` cut to, or filled up from, the size of `rest` `[B, ...]`."""
    if len(kept) >= len(rest):
        return kept[: len(rest)]
    return torch.cat([kept, rest[len(kept) :].to(kept)])
