"""Losses on a model's synaptic weights (`connection_weights`)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval, MinLen
from torch import Tensor

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import connection_weights
from neuro.ops.codebook import codebook, levels_of, nearest_level

NotNegative = Annotated[float, Ge(0)]


class WeightTerm(Term):
    """A loss on all learnable synaptic weights, without those that a phase freezes."""

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if not connection_weights(model):
            raise ConfigError(
                f"{type(self).__name__} is a loss on synaptic weights; {type(model).__name__} has "
                "none that are learnable."
            )


class RegJ(WeightTerm):
    """factor * sum over |w| > threshold of (exp(scale * (|w| - threshold)) - 1).

    Almost a hard limit: zero below `threshold`, growing exponentially above it.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        threshold: NotNegative = 0.24,
        scale: Annotated[float, Gt(0)] = 1.0,
        factor: NotNegative = 0.01,
    ):
        super().__init__(weight)
        self.threshold = threshold
        self.scale = scale
        self.factor = factor

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        total = output.values.new_zeros(())
        for weight in connection_weights(model).values():
            excess = (weight.abs() - self.threshold).clamp_min(0)
            total = total + torch.expm1(self.scale * excess).sum()
        return TermOutput(self.factor * total)


class GravityQuantization(WeightTerm):
    """factor * mean distance of a weight to the nearest level; `distance` abs or square.

    Levels are 2^`bits` + 1 or `levels` many, evenly from `min_val` to `max_val`, or those of
    `codebook`; zero is always one of them. Give one of the three, and null for what it replaces.
    """

    levels: Tensor

    def __init__(
        self,
        weight: NotNegative = 1.0,
        bits: Annotated[int, Interval(ge=1, le=16)] | None = 4,
        levels: Annotated[int, Interval(ge=2, le=65537)] | None = None,
        codebook: Annotated[tuple[float, ...], MinLen(1)] | None = None,
        min_val: float | None = -0.24,
        max_val: float | None = 0.24,
        distance: Literal["abs", "square"] = "abs",
        factor: NotNegative = 1.0,
    ):
        super().__init__(weight)
        values = _levels(bits, levels, codebook, min_val, max_val)
        self.register_buffer("levels", values, persistent=False)
        self.distance = distance
        self.factor = factor

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        total, count = output.values.new_zeros(()), 0
        for weight in connection_weights(model).values():
            away = weight - nearest_level(weight, self.levels)
            total = total + (away.abs() if self.distance == "abs" else away.square()).sum()
            count += weight.numel()
        return TermOutput(self.factor * total / max(count, 1))


def _levels(
    bits: int | None,
    levels: int | None,
    given: tuple[float, ...] | None,
    min_val: float | None,
    max_val: float | None,
) -> Tensor:
    """The levels in order. ValueError where keys contradict each other."""
    if sum(x is not None for x in (bits, levels, given)) != 1:
        raise ValueError("give one of bits, levels and codebook, and null for the others")
    if given is not None:
        if min_val is not None or max_val is not None:
            raise ValueError("a codebook has its own ends; set min_val and max_val to null")
        return torch.tensor(sorted({*given, 0.0}))
    if min_val is None or max_val is None:
        raise ValueError("bits and levels need both min_val and max_val")
    try:
        return codebook(levels_of(bits) if bits is not None else levels or 0, min_val, max_val)
    except ValueError as error:
        raise ValueError(f"min_val, max_val: {error}") from error
