"""Layers without dynamics: inputs, and functions of what arrives in the same step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.soen.base import How, NodeParameter, PerNode, SoenLayer, SoenOutput, SoenState
from neuro.layers.soen.noise import LayerNoise
from neuro.ops.sources import SourceKind, depends_on_state, source_function


class Map(SoenLayer):
    """A layer whose states are a function of what arrives in the same step."""

    at_once_without = ()

    def transform(self, phi: Tensor) -> Tensor:
        """`[..., B, N]` to states of the same shape."""
        raise NotImplementedError

    def noisy(self, phi: Tensor, noise: LayerNoise) -> Tensor:
        """The same with the noise of what is within; that on phi and s is added by the callers."""
        return self.transform(phi)

    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        phi_BN = noise.add("phi", phi_BN)
        return SoenState(noise.add("s", self.noisy(phi_BN, noise))), {"phi": phi_BN}

    def whole(self, phi_TBN: Tensor, state: Any, dt: Tensor, how: How) -> SoenOutput:
        s_TBN = how.noise.add("s", self.noisy(phi_TBN, how.noise))
        return SoenOutput(s_TBN, SoenState(s_TBN[-1]), {"phi": phi_TBN})


class Input(Map):
    """The data: its states are the frames, flattened."""

    def transform(self, phi: Tensor) -> Tensor:
        return phi


class Linear(Map):
    """The sum of what arrives, plus a bias per node if `bias`."""

    def __init__(self, dim: int, bias: bool = False):
        super().__init__(dim)
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def transform(self, phi: Tensor) -> Tensor:
        return phi if self.bias is None else phi + self.bias


class Scaling(Map):
    """What arrives times a factor per node."""

    def __init__(self, dim: int, factor: PerNode = 1.0, learnable: bool = True):
        super().__init__(dim)
        self.factor = NodeParameter("factor", factor, dim, learnable=learnable)

    def transform(self, phi: Tensor) -> Tensor:
        return phi * self.factor()


class Nonlinear(Map):
    """A source function of what arrives, without dynamics."""

    def __init__(self, dim: int, function: SourceKind = "tanh"):
        super().__init__(dim)
        if depends_on_state(function):
            raise ValueError(
                f"function: {function} needs a squid current; use a layer of type readout, or one "
                "of tanh, relu, telu, gelu"
            )
        self.function = function

    def transform(self, phi: Tensor) -> Tensor:
        return source_function(self.function, phi, None)


class Softmax(Map):
    """Shares of the nodes, softmax(beta * phi)."""

    def __init__(self, dim: int, beta: float = 1.0):
        super().__init__(dim)
        self.beta = beta

    def transform(self, phi: Tensor) -> Tensor:
        return F.softmax(self.beta * phi, -1)
