"""Bounds on weights, as a projection after every update: what a chip with few bits can hold."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neuro.errors import ConfigError
from neuro.training.callbacks.base import Callback

if TYPE_CHECKING:
    from neuro.training.trainer import Trainer


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

    def on_fit_start(self, trainer: Trainer) -> None:
        named = dict(trainer.model.named_parameters())
        for pattern in self.parameters:
            if not fnmatch.filter(named, pattern):
                raise ConfigError(
                    f"callbacks.weight_bounds.parameters: nothing matches '{pattern}'. "
                    f"The model has: {', '.join(named)}."
                )
        self._bounded: list[Tensor] = [
            p
            for name, p in named.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.parameters)
        ]

    @torch.no_grad()
    def on_step(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        torch._foreach_clamp_min_(self._bounded, self.minimum)
        torch._foreach_clamp_max_(self._bounded, self.maximum)
