"""Layers without dynamics: their states are functions of the input of the same step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.soen.base import (
    NodeParameter,
    PassOptions,
    PerNode,
    SoenLayer,
    SoenOutput,
    SoenState,
)
from neuro.layers.soen.noise import LayerNoise
from neuro.ops.sources import SourceKind, depends_on_state, source_function


class Map(SoenLayer):
    """A layer whose states are a function of the input of the same step."""

    fused_without_noise_on = ()

    def transform(self, phi: Tensor) -> Tensor:
        """Map inputs `[..., B, N]` to states of the same shape."""
        raise NotImplementedError

    def noisy(self, phi: Tensor, noise: LayerNoise) -> Tensor:
        """`transform` with noise on its internal quantities; callers add that on phi and s."""
        return self.transform(phi)

    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        phi_BN = noise.add("phi", phi_BN)
        return SoenState(noise.add("s", self.noisy(phi_BN, noise))), {"phi": phi_BN}

    def run_fused(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        s_TBN = options.noise.add("s", self.noisy(phi_TBN, options.noise))
        # The state is only an output: no map uses that of the step before.
        return SoenOutput(s_TBN, SoenState(s_TBN[-1]), {"phi": phi_TBN})


class InputLayer(Map):
    """The first layer, whose states are the flattened frames of the data."""

    def transform(self, phi: Tensor) -> Tensor:
        return phi


class Linear(Map):
    """The input, plus a bias per node if `bias`."""

    def __init__(self, dim: int, bias: bool = False):
        super().__init__(dim)
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def transform(self, phi: Tensor) -> Tensor:
        return phi if self.bias is None else phi + self.bias


class Scaling(Map):
    """The input times a factor per node."""

    def __init__(self, dim: int, factor: PerNode = 1.0, learnable: bool = True):
        super().__init__(dim)
        self.factor = NodeParameter("factor", factor, dim, learnable=learnable)

    def transform(self, phi: Tensor) -> Tensor:
        return phi * self.factor()


class Nonlinear(Map):
    """A source function of the input, of a kind that does not depend on the state."""

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
    """softmax(beta * phi) over the nodes."""

    def __init__(self, dim: int, beta: float = 1.0):
        super().__init__(dim)
        self.beta = beta

    def transform(self, phi: Tensor) -> Tensor:
        return F.softmax(self.beta * phi, -1)
