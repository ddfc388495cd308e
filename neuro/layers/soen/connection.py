"""Connections of SOEN layers: weight matrices with a connectivity mask and constraints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from neuro.config.types import STRICT
from neuro.layers.soen.connectivity import Structure
from neuro.layers.soen.initial import Initial
from neuro.layers.soen.noise import QUIET, LayerNoise


@dataclass(frozen=True)
class Constraints:
    """Constraints on weights, enforced after every update.

    minimum, maximum: bounds of all weights. sign: of all weights. excitatory: the fraction of
    source nodes, drawn at random, whose weights are all positive; those of the other nodes are all
    negative (Dale's law). An initial weight that violates a constraint is negated if that satisfies
    it, and clamped otherwise. ValueError for constraints that no weight satisfies.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

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
            raise ValueError(f"no weight between {low} and {high} has the required sign")

    def bounds(self, from_: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Lower and upper bounds by source node, `[from]` each; None without constraints."""
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
    """Weights J `[to, from]` between two layers, or within one.

    Weights and masks are drawn from a generator of their own, seeded from torch's default one: each
    connection takes one number of the global sequence, whatever its size.
    """

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
            # Negating keeps the distribution of magnitudes, which clamping would not.
            outside, mirrored = ((w < low) | (w > high) for w in (weight, -weight))
            weight = torch.where(outside & ~mirrored, -weight, weight)
        self.learnable = learnable
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        # without a mask the matrix product needs no multiplication first
        self.register_buffer("mask", None if bool(mask.all()) else mask)
        if learnable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
        self.project()

    @property
    def constrained(self) -> bool:
        """True if an update could violate the constraints."""
        return self.learnable and self.low is not None

    def matrix(self) -> Tensor:
        """The weights, with zeros for absent connections."""
        return self.weight if self.mask is None else self.weight * self.mask

    def existing(self) -> Tensor:
        """Mask `[to, from]`: 1 for present connections, else 0."""
        return torch.ones_like(self.weight) if self.mask is None else self.mask

    def forward(self, s: Tensor, noise: LayerNoise = QUIET) -> Tensor:
        """Input of the target layer `[..., B, to]` for source states `[..., B, from]`."""
        matrix = self.matrix()
        sent = F.linear(s, matrix)
        return sent + noise.through(s, matrix, self.mask) if noise.acts_on("j") else sent

    @torch.no_grad()
    def project(self) -> None:
        """Clamp the weights to the constraints, and set those of absent connections to zero."""
        if self.low is not None and self.high is not None:
            self.weight.copy_(torch.minimum(torch.maximum(self.weight, self.low), self.high))
        if self.mask is not None:
            self.weight.mul_(self.mask)
