"""Bounds on weights, enforced by a projection after every update; for chips with few bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from neuro.models.base import CoreModel
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.quantisation import matching, unmatched


class WeightBounds(Callback):
    """Clamps parameters to [`minimum`, `maximum`].

    `parameters` are patterns of their names; None: all weights, that is parameters with at least
    two dimensions, the readout's included.
    """

    def __init__(
        self,
        minimum: float = -1.0,
        maximum: float = 1.0,
        parameters: Annotated[tuple[str, ...], MinLen(1)] | None = None,
    ):
        if minimum >= maximum:
            raise ValueError(f"minimum ({minimum}) must be below maximum ({maximum})")
        self.minimum = minimum
        self.maximum = maximum
        self.parameters = parameters

    def check(self, setup: Setup) -> Iterator[str]:
        if self.parameters is not None:
            yield from unmatched(
                "parameters", self.parameters, dict(setup.model.named_parameters())
            )

    def notes(self, setup: Setup) -> Iterator[str]:
        if not self._chosen(setup.model):
            yield f"has nothing to bound: {type(setup.model).__name__} has no matrices or kernels."

    def on_fit_start(self, trainer: TrainerView) -> None:
        self._bounded: list[Tensor] = self._chosen(trainer.model)

    def _chosen(self, model: CoreModel) -> list[Tensor]:
        named = dict(model.named_parameters())
        if self.parameters is None:
            return [parameter for parameter in named.values() if parameter.ndim >= 2]
        return [named[name] for name in matching(self.parameters, named)]

    @torch.no_grad()
    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if not self._bounded:
            return
        torch._foreach_clamp_min_(self._bounded, self.minimum)
        torch._foreach_clamp_max_(self._bounded, self.maximum)
