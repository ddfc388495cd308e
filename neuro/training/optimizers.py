"""Optimizers as annotated factories: torch's own do the work, our signatures check the config.

`lr` is the peak rate; the schedule scales it and nothing else does. Biases, thresholds and other
vectors are not decayed (`weight_decay` acts on tensors with at least two dimensions).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

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


def state_by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """What an optimizer remembers (momenta, counts), by the names of the model's parameters.

    By name, it can be handed to an optimizer over other parameters or with other options.
    """
    named = model.named_parameters()
    return {name: dict(optimizer.state[p]) for name, p in named if p in optimizer.state}


def load_state_by_name(
    optimizer: torch.optim.Optimizer, model: nn.Module, states: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give an optimizer what `state_by_name` took, as far as it trains those parameters."""
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name in states and parameter in trained:
            optimizer.state[parameter] = {
                key: _placed(value, parameter) for key, value in states[name].items()
            }


def _placed(value: Any, parameter: nn.Parameter) -> Any:
    """A copy beside its parameter; scalar tensors (update counts) stay on the host, as in torch."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
