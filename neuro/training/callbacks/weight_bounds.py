"""Bounds on weights, as a projection after every update: what a chip with few bits can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.quantisation import matching, unmatched


class WeightBounds(Callback):
    """Clamps the parameters that match one of `parameters` to [`minimum`, `maximum`]."""

    def __init__(
        self,
        minimum: float = -1.0,
        maximum: float = 1.0,
        parameters: tuple[str, ...] = ("layers.*weight",),
    ):
        if minimum >= maximum:
            raise ValueError(f"minimum ({minimum}) must be below maximum ({maximum})")
        self.minimum = minimum
        self.maximum = maximum
        self.parameters = parameters

    def check(self, setup: Setup) -> Iterator[str]:
        yield from unmatched("parameters", self.parameters, dict(setup.model.named_parameters()))

    def on_fit_start(self, trainer: TrainerView) -> None:
        named = dict(trainer.model.named_parameters())
        self._bounded: list[Tensor] = [named[name] for name in matching(self.parameters, named)]

    @torch.no_grad()
    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        torch._foreach_clamp_min_(self._bounded, self.minimum)
        torch._foreach_clamp_max_(self._bounded, self.maximum)
