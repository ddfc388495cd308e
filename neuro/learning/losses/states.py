"""Losses that keep outputs and layers' states between silence and saturation."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from neuro.config.types import Positive
from neuro.data.base import Batch
from neuro.errors import ConfigError, nearest
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Layered

NotNegative = Annotated[float, Ge(0)]


class GetOffTheGround(Term):
    """Penalty on outputs near zero; the mean over outputs, pooled by the objective.

    It decreases linearly from `max_penalty_offset` at 0 to `min_penalty_offset` at |s| =
    `threshold`, and is zero beyond. The slope at exactly 0 is that of positive outputs, so that
    outputs without any activity have a gradient, too.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        threshold: Positive = 0.01,
        min_penalty_offset: NotNegative = 0.5,
        max_penalty_offset: NotNegative = 10.0,
    ):
        super().__init__(weight)
        if max_penalty_offset < min_penalty_offset:
            raise ValueError(
                f"max_penalty_offset: got {max_penalty_offset}; expected at least "
                f"min_penalty_offset ({min_penalty_offset})"
            )
        self.threshold = threshold
        self.min_penalty_offset = min_penalty_offset
        self.max_penalty_offset = max_penalty_offset

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        s = output.values
        size = torch.where(s < 0, -s, s)
        span = self.max_penalty_offset - self.min_penalty_offset
        cost = self.max_penalty_offset - span * size / self.threshold
        return TermOutput(torch.where(size < self.threshold, cost, 0.0).mean())


class ExpHighState(Term):
    """factor * mean(exp(scale * max(0, |s| - threshold)) - 1) over outputs and time steps.

    It uses outputs before pooling, so that single peaks are penalised.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        threshold: NotNegative = 1.0,
        scale: Positive = 1.0,
        factor: NotNegative = 1.0,
    ):
        super().__init__(weight)
        self.threshold = threshold
        self.scale = scale
        self.factor = factor

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        excess = (output.records["values"].abs() - self.threshold).clamp_min(0)
        return TermOutput(self.factor * torch.expm1(self.scale * excess).mean())


class AverageStateMagnitude(Term):
    """(mean |s| - target_magnitude)^2, or its absolute value, of each layer; mean over layers.

    `layer_ids` names the layers, a number n for `layer<n>`; null is all of them. The mean is over
    time, samples and nodes; a spiking layer's is its firing rate per step.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        target_magnitude: NotNegative = 0.5,
        loss_type: Literal["mse", "abs"] = "mse",
        layer_ids: Annotated[tuple[int | str, ...], MinLen(1)] | None = None,
    ):
        super().__init__(weight)
        self.target_magnitude = target_magnitude
        self.loss_type = loss_type
        self.layer_ids = layer_ids

    def records(self, model: CoreModel) -> tuple[str, ...]:
        activity = activity_of(self, model)
        chosen = activity if self.layer_ids is None else [_name(x) for x in self.layer_ids]
        problems = [
            f"layer_ids: {type(model).__name__} has no layer '{layer}'. Its layers: "
            f"{', '.join(activity)}.{nearest(layer, activity)}"
            for layer in chosen
            if layer not in activity
        ]
        if problems:
            raise ConfigError(problems)
        return tuple(activity[layer] for layer in chosen)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        states = [output.records[name] for name in self.records(model)]
        away = torch.stack([s.abs().mean() for s in states]) - self.target_magnitude
        costs: Tensor = away.square() if self.loss_type == "mse" else away.abs()
        return TermOutput(costs.mean())


def _name(layer: int | str) -> str:
    return f"layer{layer}" if isinstance(layer, int) else layer


def activity_of(term: Term, model: CoreModel) -> dict[str, str]:
    """The record of each layer's activity. ConfigError if the model has no such records."""
    if not isinstance(model, Layered):
        raise ConfigError(
            f"{type(term).__name__} needs records of layers' activity, which "
            f"{type(model).__name__} does not make. Use model=soen, or a spiking model (ltgate, "
            "lif, hlop, dsdsnn)."
        )
    return model.activity_records()
