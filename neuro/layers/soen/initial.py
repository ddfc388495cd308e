"""Initial values of connection weights `[to, from]`, given the mask of present connections.

Fan-in and fan-out of a node count its connections, not the width of the other layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

#: half-width of the range of mutual inductances on a chip (`specs`: uniform +-.24)
SAFE_COUPLING = 0.24


class Initial(ABC):
    """A rule for initial weights."""

    supplied: tuple[str, ...] = ()

    @abstractmethod
    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Draw values `[to, from]`; those outside `mask` are ignored."""


class Normal(Initial):
    """Gaussian with the given mean and standard deviation."""

    def __init__(self, mean: float = 0.0, std: Annotated[float, Gt(0)] = 0.1):
        self.mean = mean
        self.std = std

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean + self.std * torch.randn(mask.shape, generator=generator)


class Uniform(Initial):
    """Uniform between two values, by default the range of a chip's couplers."""

    def __init__(self, minimum: float = -SAFE_COUPLING, maximum: float = SAFE_COUPLING):
        if minimum >= maximum:
            raise ValueError(f"minimum ({minimum}) must be below maximum ({maximum})")
        self.minimum = minimum
        self.maximum = maximum

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        unit = torch.rand(mask.shape, generator=generator)
        return self.minimum + (self.maximum - self.minimum) * unit


class Xavier(Initial):
    """Gaussian with variance gain^2 * 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""

    def __init__(self, gain: Annotated[float, Gt(0)] = 1.0):
        self.gain = gain

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        fans = mask.sum(1, keepdim=True) + mask.sum(0, keepdim=True)
        unit = torch.randn(mask.shape, generator=generator)
        return self.gain * (2.0 / fans.clamp_min(1)).sqrt() * unit


class Kaiming(Initial):
    """Gaussian with variance gain^2 / fan_in (He et al. 2015); gain sqrt(2) suits rectifiers."""

    def __init__(self, gain: Annotated[float, Gt(0)] = math.sqrt(2.0)):
        self.gain = gain

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        fan_in = mask.sum(1, keepdim=True).clamp_min(1)
        return self.gain / fan_in.sqrt() * torch.randn(mask.shape, generator=generator)


class Orthogonal(Initial):
    """Orthonormal rows or columns times `gain` (Saxe et al. 2014), if all connections exist."""

    def __init__(self, gain: Annotated[float, Gt(0)] = 1.0):
        self.gain = gain

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        return nn.init.orthogonal_(torch.empty(mask.shape), self.gain, generator=generator)


class Constant(Initial):
    """The same value for all weights."""

    def __init__(self, value: float):
        self.value = value

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full(mask.shape, self.value)


class FluxBalanced(Initial):
    """Uniform within +-`scale`, then shifted so that the weights into each node add up to `sum`.

    With a sum of 0, equal inputs cancel and the flux of a node is its phi_offset.
    """

    def __init__(self, scale: Annotated[float, Gt(0)] = SAFE_COUPLING, sum: float = 0.0):
        self.scale = scale
        self.sum = sum

    def values(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        values = (2 * torch.rand(mask.shape, generator=generator) - 1) * self.scale * mask
        excess = values.sum(1, keepdim=True) - self.sum
        # shift present weights only; nodes without inputs keep none
        return (values - excess / mask.sum(1, keepdim=True).clamp_min(1)) * mask


INITIALS: dict[str, type[Initial]] = {
    "normal": Normal,
    "uniform": Uniform,
    "xavier": Xavier,
    "kaiming": Kaiming,
    "orthogonal": Orthogonal,
    "constant": Constant,
    "flux_balanced": FluxBalanced,
}
