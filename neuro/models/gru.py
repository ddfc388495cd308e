"""Gated recurrent units (Cho et al. 2014) over sequences of vectors, a baseline without spikes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated

from annotated_types import Interval
from torch import Tensor, nn

from neuro.config.types import Count
from neuro.data.base import TaskSpec
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.inputs import check_sequences

Layers = Annotated[int, Interval(ge=1, le=1000)]


class GRU(CoreModel):
    """`layers` of `units`, and a linear readout of the last one at every step."""

    def __init__(self, spec: TaskSpec, units: Count = 64, layers: Layers = 1):
        super().__init__()
        check_sequences(spec, time_step=False)
        self.recurrent = nn.GRU(prod(spec.inputs.shape), units, layers, batch_first=True)
        self.readout = nn.Linear(units, spec.outputs)

    def initial_state(self, batch_size: int) -> Tensor:
        """Hidden states, `[B, layers, units]`."""
        shape = batch_size, self.recurrent.num_layers, self.recurrent.hidden_size
        return self.readout.weight.new_zeros(shape)

    def forward(
        self,
        inputs: Tensor,
        state: Tensor | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        before = self.initial_state(len(inputs)) if state is None else state
        hidden, last = self.recurrent(inputs.flatten(2), before.transpose(0, 1).contiguous())
        return ModelOutput(self.readout(hidden), last.transpose(0, 1), {})
