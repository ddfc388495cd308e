"""Multilayer perceptron: the frames of a sequence one by one, through dense layers with ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from neuro.data.base import TaskSpec
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.inputs import check_sequences


class MLP(CoreModel):
    """Flattened frames `[B, T, F]` to scores `[B, T, K]`; `hidden`: units of each hidden layer.

    It has no state: each step depends on its own frame alone.
    """

    def __init__(self, spec: TaskSpec, hidden: tuple[Annotated[int, Ge(1)], ...] = (100, 100)):
        super().__init__()
        check_sequences(spec, time_step=False)
        widths = (prod(spec.inputs.shape), *hidden)
        layers = [(nn.Linear(inputs, outputs), nn.ReLU()) for inputs, outputs in pairwise(widths)]
        self.hidden = nn.Sequential(*(part for layer in layers for part in layer))
        self.readout = nn.Linear(widths[-1], spec.outputs)

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(
        self,
        inputs: Tensor,
        state: tuple[()] | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        return ModelOutput(self.readout(self.hidden(inputs.flatten(2))), (), {})
