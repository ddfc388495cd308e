"""Optimizers as annotated factories: torch's own do the work, our signatures check the config.

`lr` is the peak rate; the schedule scales it and nothing else does. Biases, thresholds and other
vectors are not decayed (`weight_decay` acts on tensors with at least two dimensions).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

Rate = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]


class OptimizerFactory(ABC):
    """Makes a torch optimizer for the parameters of a phase."""

    supplied: tuple[str, ...] = ()

    def __init__(self, lr: float, weight_decay: float):
        self.lr = lr
        self.weight_decay = weight_decay

    @abstractmethod
    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer: ...

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer over the parameters that require gradients."""
        trained = [p for p in parameters if p.requires_grad]
        if not trained:  # only statistics learn in this phase; the loop stays the same
            trained = [nn.Parameter(torch.zeros(0))]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return self._make([group for group in groups if group["params"]])


class AdamW(OptimizerFactory):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        weight_decay: NonNegative = 0.01,
    ):
        super().__init__(lr, weight_decay)
        self.betas = betas
        self.eps = eps

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps)


class Adam(OptimizerFactory):
    """Adam (Kingma and Ba 2015); weight decay, if any, is added to the gradient."""

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        weight_decay: NonNegative = 0.0,
    ):
        super().__init__(lr, weight_decay)
        self.betas = betas
        self.eps = eps

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps)


class SGD(OptimizerFactory):
    """Stochastic gradient descent; with no momentum it applies local rules as they stand."""

    def __init__(
        self,
        lr: Rate = 0.01,
        momentum: Fraction = 0.0,
        nesterov: bool = False,
        weight_decay: NonNegative = 0.0,
    ):
        super().__init__(lr, weight_decay)
        if nesterov and momentum == 0:
            raise ValueError("nesterov=true needs momentum > 0")
        self.momentum = momentum
        self.nesterov = nesterov

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
