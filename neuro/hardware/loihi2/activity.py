"""Outputs of the layers of a simulated network, as the engine's synapses receive them."""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.hardware.loihi2.integer import INPUT
from neuro.hardware.loihi2.synapse_groups import SynapseGroup
from neuro.ops.integer_synapses import event_counts


class Activity:
    """Outputs of the input and of simulated layers: rows `[T, B, N]`, `[1, B, N]` if constant."""

    def __init__(self, steps: int, inputs: Tensor):
        self.steps = steps
        self.rows = {INPUT: inputs}
        self._converted: dict[tuple[str, bool], Tensor] = {}
        self._counts: dict[tuple[str, int], Tensor] = {}

    def arriving(self, group: SynapseGroup) -> Tensor:
        """What a group of synapses receives at each step: see `of`, with its delay and columns."""
        rows = self.of(group.source, group.graded)
        if group.delay:
            late = torch.zeros(self.steps, *rows.shape[1:], dtype=rows.dtype)
            # a constant input has one row, which is the same for all steps
            late[group.delay :] = rows[: max(self.steps - group.delay, 0)]
            rows = late
        return rows if group.columns is None else rows[..., group.columns].contiguous()

    def of(self, source: str, graded: bool) -> Tensor:
        """Rows of a source: int32 if `graded`, else uint8 with 1 for each value other than zero."""
        dtype = torch.int32 if graded else torch.uint8
        rows = self.rows[source]
        if rows.dtype == dtype:
            return rows
        if (source, graded) not in self._converted:
            self._converted[source, graded] = (rows if graded else rows != 0).to(dtype)
        return self._converted[source, graded]

    def counts(self, source: str, delay: int = 0) -> Tensor:
        """Number of non-zero values of each neuron over all steps and samples, `[N]`.

        Without those that a delay moves behind the end.
        """
        if (source, delay) not in self._counts:
            rows, steps = self.rows[source], max(self.steps - delay, 0)
            # a constant input is sent at every step, so its counts are multiplied
            repeats = steps if len(rows) < self.steps else 1
            self._counts[source, delay] = event_counts(rows[:steps].flatten(0, 1)) * repeats
        return self._counts[source, delay]
