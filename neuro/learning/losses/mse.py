"""Mean squared error: of values, and of a student's trajectories against its teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neuro.data.base import Batch
from neuro.learning.metrics import VALUE_KINDS, squared_error
from neuro.learning.objective import Count, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput


class MSE(Term):
    """Mean of (output - target)^2 over all entries: pooled outputs, or those of each step."""

    targets = VALUE_KINDS
    uses_weights = True

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        return TermOutput(squared_error(output.values, batch.targets, batch.weights))


class Distillation(Term):
    """Mean of (output - teacher's output)^2 over time, before pooling and without its scale.

    Beside cross_entropy, the student learns from its teacher and from the labels.
    """

    uses_teacher = True

    def count(self, batch: Batch, share: float = 1.0) -> Count:
        return super().count(batch, share) if batch.lengths is None else batch.lengths.sum()

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        assert batch.teacher is not None
        values, teacher = output.records["values"].float(), batch.teacher
        if batch.lengths is not None:
            steps = torch.arange(values.shape[1], device=values.device)
            own = steps < batch.lengths[:, None]
            values, teacher = values[own], teacher[own]
        return TermOutput(F.mse_loss(values, teacher))
