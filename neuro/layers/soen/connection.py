"""Connections: a weight for each pair of nodes that a structure connects, within constraints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from neuro.layers.soen.connectivity import Structure
from neuro.layers.soen.initial import Initial
from neuro.layers.soen.noise import QUIET, LayerNoise


@dataclass(frozen=True)
class Constraints:
    """What weights must stay within after every update.

    `sign` is one for all; `excitatory` is the share of source nodes whose weights are all positive
    while those of the others are all negative (Dale's law), drawn with the weights. A starting
    value that is not allowed while its negative is starts as that.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    minimum: float | None = None
    maximum: float | None = None
    sign: Literal["positive", "negative"] | None = None
    excitatory: Annotated[float, Interval(ge=0, le=1)] | None = None

    def __post_init__(self) -> None:
        low = -torch.inf if self.minimum is None else self.minimum
        high = torch.inf if self.maximum is None else self.maximum
        if low >= high:
            raise ValueError(f"minimum ({low}) must be below maximum ({high})")
        if self.sign is not None and self.excitatory is not None:
            raise ValueError("sign, excitatory: give one of them")
        positive = self.sign == "positive" or self.excitatory not in (None, 0.0)
        negative = self.sign == "negative" or self.excitatory not in (None, 1.0)
        if (positive and high <= 0) or (negative and low >= 0):
            raise ValueError(f"no weight between {low} and {high} has the sign that is wanted")

    def bounds(self, from_: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Lower and upper bounds by source node `[from]`; None where there is no constraint."""
        if self == Constraints():
            return None
        low = torch.full((from_,), -torch.inf if self.minimum is None else self.minimum)
        high = torch.full((from_,), torch.inf if self.maximum is None else self.maximum)
        if self.excitatory is not None:
            positive = torch.zeros(from_, dtype=torch.bool)
            chosen = torch.randperm(from_, generator=generator)[: round(self.excitatory * from_)]
            positive[chosen] = True
        else:
            positive = torch.full((from_,), self.sign == "positive")
        if self.sign is not None or self.excitatory is not None:
            low = torch.where(positive, low.clamp_min(0), low)
            high = torch.where(positive, high, high.clamp_max(0))
        return low, high


class Connection(nn.Module):
    """Weights J `[to, from]` between two layers, or within one."""

    weight: Tensor
    mask: Tensor | None
    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        to: int,
        from_: int,
        structure: Structure,
        initial: Initial,
        constraints: Constraints,
        *,
        internal: bool,
        learnable: bool,
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        mask = structure.make(to, from_, internal=internal, generator=generator)
        weight = initial.values(mask, generator) * mask
        bounds = constraints.bounds(from_, generator)
        low, high = (None, None) if bounds is None else bounds
        if low is not None and high is not None:
            outside, mirrored = (_outside(w, low, high) for w in (weight, -weight))
            weight = torch.where(outside & ~mirrored, -weight, weight)
        self.learnable = learnable
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        # a connection of full structure needs no mask
        self.register_buffer("mask", None if bool(mask.all()) else mask)
        if learnable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
        self.project()

    @property
    def constrained(self) -> bool:
        """Whether an update could lead out of the constraints."""
        return self.learnable and self.low is not None

    def matrix(self) -> Tensor:
        """The weights in use; where there is no connection, zero."""
        return self.weight if self.mask is None else self.weight * self.mask

    def existing(self) -> Tensor:
        """1 where there is a connection, else 0, `[to, from]`."""
        return torch.ones_like(self.weight) if self.mask is None else self.mask

    def forward(self, s: Tensor, noise: LayerNoise = QUIET) -> Tensor:
        """What states `[..., B, from]` send to the other layer, `[..., B, to]`."""
        matrix = self.matrix()
        sent = F.linear(s, matrix)
        return sent + noise.through(s, matrix, self.mask) if noise.acts_on("j") else sent

    @torch.no_grad()
    def project(self) -> None:
        """Bring the weights back within the constraints, and unconnected ones to zero."""
        if self.low is not None and self.high is not None:
            self.weight.copy_(torch.minimum(torch.maximum(self.weight, self.low), self.high))
        if self.mask is not None:
            self.weight.mul_(self.mask)


def _outside(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (weight < low) | (weight > high)
