"""A loss on the activity that remains some time after a sample, for chips without a reset."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt

from neuro.data.base import Batch, TaskSpec
from neuro.learning.losses.states import activity_of
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput


class PostSampleDecay(Term):
    """Mean |g| over all nodes after `steps` further steps of zero input.

    g is the drive of a node (record `<layer>/g`); layers without that record use their activity.
    """

    def __init__(self, weight: Annotated[float, Ge(0)] = 1.0, steps: Annotated[int, Gt(0)] = 50):
        super().__init__(weight)
        self.steps = steps

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        activity_of(self, model)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        silence = torch.zeros_like(batch.inputs[:, :1])
        inputs = silence.expand(-1, self.steps, *silence.shape[2:])
        names = [
            f"{layer}/g" if f"{layer}/g" in model.recordable else activity
            for layer, activity in activity_of(self, model).items()
        ]
        records = model(inputs, output.state, dt_ms=batch.dt_ms, record=names).records
        last = torch.cat([records[name][-1].flatten(1) for name in names], 1)
        return TermOutput(last.abs().mean())
