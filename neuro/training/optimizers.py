"""Factories of torch's optimizers, whose annotated constructors are the schema of the config.

`lr` is the peak rate, which only the schedule scales. `weight_decay` applies to tensors with at
least two dimensions, not to biases, thresholds and other vectors. `groups` sets rates and decays of
parameters by their names.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

from neuro.training.parameter_groups import (
    Groups,
    Named,
    Together,
    divide,
    first_match,
    unmatched,
)

Rate = Annotated[float, Gt(0)]
#: learning rate of an optimizer: a number, or `auto` for a range test before the phase
PeakRate = Rate | Literal["auto"]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]


class OptimizerFactory(ABC):
    """Makes a torch optimizer for the parameters of a phase.

    With lr=auto, `auto` is True and `lr` is 1, a placeholder until a range test has found the rate.
    """

    supplied: tuple[str, ...] = ()

    def __init__(self, lr: float | Literal["auto"], weight_decay: float, groups: Groups | None):
        self.auto = lr == "auto"
        self.lr = 1.0 if isinstance(lr, str) else lr
        self.weight_decay = weight_decay
        self.groups = groups or {}

    @abstractmethod
    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer: ...

    def __call__(self, parameters: Iterable[Named]) -> torch.optim.Optimizer:
        """An optimizer over those of a model's named parameters that require gradients."""
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        if not trained:  # a phase that updates only statistics; torch refuses an empty list
            trained = [("", nn.Parameter(torch.zeros(0)))]
        return self._make(self._divide(trained))

    def at(self, lr: float) -> OptimizerFactory:
        """A copy with another rate; groups with rates of their own keep theirs."""
        other = copy.copy(self)
        other.lr, other.auto = lr, False
        return other

    def problems(self, names: Sequence[str], path: str) -> list[str]:
        """Problems of the patterns for a model with parameters of these names."""
        patterns = [pattern for pattern, group in self.groups.items() if group is not None]
        return unmatched(patterns, names, f"{path}.groups")

    def continues(self, other: OptimizerFactory) -> bool:
        """True if this optimizer can continue with the state of one made by `other`."""
        return type(self) is type(other)

    def _divide(self, trained: Sequence[Named]) -> list[dict[str, Any]]:
        return divide(trained, self.lr, self.weight_decay, self.groups)


class AdamW(OptimizerFactory):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(
        self,
        lr: PeakRate = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        weight_decay: NonNegative = 0.01,
        groups: Groups | None = None,
        amsgrad: bool = False,
    ):
        super().__init__(lr, weight_decay, groups)
        self.betas = betas
        self.eps = eps
        self.amsgrad = amsgrad

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, amsgrad=self.amsgrad
        )


class Adam(OptimizerFactory):
    """Adam (Kingma and Ba 2015); weight decay, if any, is added to the gradient."""

    def __init__(
        self,
        lr: PeakRate = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        weight_decay: NonNegative = 0.0,
        groups: Groups | None = None,
        amsgrad: bool = False,
    ):
        super().__init__(lr, weight_decay, groups)
        self.betas = betas
        self.eps = eps
        self.amsgrad = amsgrad

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, amsgrad=self.amsgrad
        )


class SGD(OptimizerFactory):
    """Stochastic gradient descent; without momentum, updates of local rules are unchanged.

    Rate and momentum have no defaults here, because gradients and local rules need different ones.
    """

    def __init__(
        self,
        lr: PeakRate,
        momentum: Fraction,
        nesterov: bool = False,
        weight_decay: NonNegative = 0.0,
        groups: Groups | None = None,
        dampening: Fraction = 0.0,
    ):
        super().__init__(lr, weight_decay, groups)
        if nesterov and momentum == 0:
            raise ValueError("nesterov=true needs momentum > 0")
        if nesterov and dampening > 0:
            raise ValueError("nesterov=true needs dampening=0")
        if dampening > 0 and momentum == 0:
            raise ValueError("dampening acts on the momentum; it needs momentum > 0")
        self.momentum = momentum
        self.nesterov = nesterov
        self.dampening = dampening

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
        )


class RMSprop(OptimizerFactory):
    """Gradient over its running root mean square, or deviation if `centered` (Hinton 2012)."""

    def __init__(
        self,
        lr: PeakRate = 1e-3,
        alpha: Fraction = 0.99,
        eps: Rate = 1e-8,
        momentum: Fraction = 0.0,
        centered: bool = False,
        weight_decay: NonNegative = 0.0,
        groups: Groups | None = None,
    ):
        super().__init__(lr, weight_decay, groups)
        self.alpha = alpha
        self.eps = eps
        self.momentum = momentum
        self.centered = centered

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            groups,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            centered=self.centered,
        )


class Lion(OptimizerFactory):
    """The sign of an interpolated momentum, with decoupled weight decay (Chen et al. 2023).

    Its steps are larger than Adam's: use rates 3 to 10 times smaller, and decays larger by as much.
    """

    def __init__(
        self,
        lr: PeakRate = 1e-4,
        betas: tuple[Fraction, Fraction] = (0.9, 0.99),
        weight_decay: NonNegative = 0.1,
        groups: Groups | None = None,
    ):
        super().__init__(lr, weight_decay, groups)
        self.betas = betas

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from lion_pytorch import Lion as Implementation

        optimizer: torch.optim.Optimizer = Implementation(groups, lr=self.lr, betas=self.betas)
        return optimizer


class Muon(OptimizerFactory):
    """Orthogonalised momentum for matrices (Jordan et al. 2024), AdamW for other parameters.

    AdamW trains vectors, convolution kernels and the matrices that match `adamw`, which should be
    embeddings and readouts. `scaling` adapts the rate to the shape of a matrix: `match_rms_adamw`
    gives steps of AdamW's size, so that one `lr` suits both (Liu et al. 2025); `original` is the
    scaling of the first publication.
    """

    def __init__(
        self,
        lr: PeakRate = 1e-3,
        momentum: Fraction = 0.95,
        nesterov: bool = True,
        ns_steps: Annotated[int, Gt(0)] = 5,
        scaling: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        adamw: tuple[str, ...] = (),
        adamw_lr: Rate | None = None,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        weight_decay: NonNegative = 0.1,
        groups: Groups | None = None,
        amsgrad: bool = False,
    ):
        super().__init__(lr, weight_decay, groups)
        self.momentum = momentum
        self.nesterov = nesterov
        self.ns_steps = ns_steps
        self.scaling = scaling
        self.adamw = adamw
        self.adamw_lr = adamw_lr
        self.betas = betas
        self.eps = eps
        self.amsgrad = amsgrad

    def problems(self, names: Sequence[str], path: str) -> list[str]:
        return super().problems(names, path) + unmatched(self.adamw, names, f"{path}.adamw")

    def continues(self, other: OptimizerFactory) -> bool:
        return isinstance(other, Muon) and other.adamw == self.adamw

    def _divide(self, trained: Sequence[Named]) -> list[dict[str, Any]]:
        matrices: list[Named] = []
        others: list[Named] = []
        for name, p in trained:
            orthogonal = p.ndim == 2 and first_match(name, self.adamw) is None
            (matrices if orthogonal else others).append((name, p))
        rate = self.lr if self.adamw_lr is None else self.adamw_lr
        divided = divide(matrices, self.lr, self.weight_decay, self.groups)
        divided = [{**group, "orthogonal": True} for group in divided]
        rest = divide(others, rate, self.weight_decay, self.groups)
        return divided + [{**group, "orthogonal": False} for group in rest]

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Together(
            groups,
            lambda group: group["orthogonal"],
            lambda own: torch.optim.Muon(
                own,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.scaling,
            ),
            lambda own: torch.optim.AdamW(
                own, betas=self.betas, eps=self.eps, amsgrad=self.amsgrad
            ),
        )
