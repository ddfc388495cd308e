"""Errors of values: mean squared and smooth L1; of a student's trajectories against a teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from neuro.data.base import Batch
from neuro.errors import ConfigError, nearest
from neuro.learning.metrics import VALUE_KINDS, smooth_l1, squared_error
from neuro.learning.terms import Count, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Layered


class MSE(Term):
    """Mean of (output - target)^2 over all entries: pooled outputs, or those of each step."""

    targets = VALUE_KINDS
    uses_weights = True

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        return TermOutput(squared_error(output.values, batch.targets, batch.weights))


class SmoothL1(Term):
    """Mean over all entries of d^2 / (2 beta) where d = |output - target| < beta, else d - beta/2.

    Squares of small errors, absolute values of large ones; with beta 1, the loss of Girshick 2015
    (equation 3).
    """

    targets = VALUE_KINDS
    uses_weights = True

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        beta: Annotated[float, Interval(gt=0, le=1e6)] = 1.0,
    ):
        super().__init__(weight)
        self.beta = beta

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        return TermOutput(smooth_l1(output.values, batch.targets, batch.weights, self.beta))


class Distillation(Term):
    """Mean of (output - teacher's output)^2 over time, before pooling and without its scale.

    With `layers`, pairs of a layer of the student and one of the teacher, it is the mean over the
    states (or spikes) of these layers instead, as hint-based training does (Romero et al. 2015);
    the layers of a pair have the same size. Beside cross_entropy, the student learns from its
    teacher and from the labels.
    """

    uses_teacher = True

    def __init__(self, weight: Annotated[float, Ge(0)] = 1.0, layers: dict[str, str] | None = None):
        super().__init__(weight)
        self.layers = layers or {}

    def records(self, model: CoreModel) -> tuple[str, ...]:
        return layer_records(model, self.layers, "layers: this run's model")

    def count(self, batch: Batch, share: float = 1.0) -> Count:
        return super().count(batch, share) if batch.lengths is None else batch.lengths.sum()

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        assert batch.teacher is not None
        values, teacher = output.records["values"], batch.teacher
        if self.layers:
            values = trajectories(output, self.records(model))
        values = values.float()
        if batch.lengths is not None:
            steps = torch.arange(values.shape[1], device=values.device)
            own = steps < batch.lengths[:, None]
            values, teacher = values[own], teacher[own]
        return TermOutput(F.mse_loss(values, teacher))


def layer_records(model: CoreModel, layers: Iterable[str], owner: str) -> tuple[str, ...]:
    """The records of the activity of some layers. ConfigError if the model, `owner`, has none."""
    available = model.activity_records() if isinstance(model, Layered) else {}
    for name in layers:
        if name not in available:
            raise ConfigError(
                f"{owner} has no layer '{name}' whose states can be recorded. Its layers: "
                f"{', '.join(available) or 'none'}.{nearest(name, available)}"
            )
    return tuple(available[name] for name in layers)


def trajectories(output: ModelOutput, records: Iterable[str]) -> Tensor:
    """Recorded states `[T, B, ...]` of several layers side by side, `[B, T, K]`."""
    return torch.cat([output.records[name].flatten(2).transpose(0, 1) for name in records], -1)
