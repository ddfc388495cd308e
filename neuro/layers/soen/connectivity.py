"""Connectivity structures, as masks `[to, from]` of 0 and 1.

A structure is a class with parameters; `mask(to, from, generator)` draws a mask. Structures that
depend on distance place nodes evenly on a line from 0 to 1, or on a square if `plane` is true.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from neuro.config.types import Count

Probability = Annotated[float, Interval(gt=0, le=1)]


class Structure(ABC):
    """A rule for drawing the mask of a connection."""

    supplied: tuple[str, ...] = ()

    def __init__(self, allow_self: bool = True):
        self.allow_self = allow_self  #: keep self-connections in internal connections

    @abstractmethod
    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        """Draw the mask `[to, from]`. ValueError if the structure does not fit the widths."""

    def make(self, to: int, from_: int, *, internal: bool, generator: torch.Generator) -> Tensor:
        """Draw the mask of a connection, without self-connections unless they are allowed.

        ValueError if there are no connections at all.
        """
        mask = self.mask(to, from_, generator).float()
        if internal and not self.allow_self:
            mask.fill_diagonal_(0)
        if not bool(mask.any()):  # the layer would be silent, or never driven
            raise ValueError(f"connects none of {from_} to {to} nodes")
        return mask


class AllToAll(Structure):
    """Every node to every node."""

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        return torch.ones(to, from_)


class OneToOne(Structure):
    """Node n to node n; both layers must have the same width."""

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        if to != from_:
            raise ValueError(f"one_to_one needs equal widths; got {from_} and {to}")
        return torch.eye(to)


class Chain(Structure):
    """Node n to node n + 1; `closed` also connects the last node to the first."""

    def __init__(self, closed: bool = False, allow_self: bool = True):
        super().__init__(allow_self)
        self.closed = closed

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        if to != from_:
            raise ValueError(f"chain needs equal widths; got {from_} and {to}")
        ahead = torch.ones(to - 1).diag(-1)
        if self.closed:
            ahead[0, -1] = 1
        return ahead


class Sparse(Structure):
    """Each connection with probability `density`, independent of the others."""

    def __init__(self, density: Probability = 0.1, allow_self: bool = True):
        super().__init__(allow_self)
        self.density = density

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        return (torch.rand(to, from_, generator=generator) < self.density).float()


class ConstantFanIn(Structure):
    """Every node has exactly `fan_in` inputs, drawn without replacement."""

    def __init__(self, fan_in: Count, allow_self: bool = True):
        super().__init__(allow_self)
        self.fan_in = fan_in

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        return self._drawn(torch.rand(to, from_, generator=generator), from_)

    def make(self, to: int, from_: int, *, internal: bool, generator: torch.Generator) -> Tensor:
        if not internal or self.allow_self:
            return self.mask(to, from_, generator)
        # an infinite rank excludes self-connections without reducing the number of inputs
        rank = torch.rand(to, from_, generator=generator).fill_diagonal_(torch.inf)
        return self._drawn(rank, from_ - 1)

    def _drawn(self, rank: Tensor, others: int) -> Tensor:
        """Mask of the `fan_in` connections of lowest rank `[to, from]` for each node."""
        if self.fan_in > others:
            raise ValueError(f"fan_in: got {self.fan_in}; there are only {others} source nodes")
        return torch.zeros_like(rank).scatter_(1, rank.argsort(1)[:, : self.fan_in], 1.0)


class PowerLaw(Structure):
    """Connections with probability min(1, (distance / reach) ** -exponent)."""

    def __init__(
        self,
        exponent: Annotated[float, Gt(0)] = 2.0,
        reach: Probability = 0.05,
        plane: bool = False,
        allow_self: bool = True,
    ):
        super().__init__(allow_self)
        self.exponent = exponent
        self.reach = reach
        self.plane = plane

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        # nodes at the same place are at distance 0, whose negative power is infinite
        ratio = _distances(to, from_, self.plane).clamp_min(1e-9) / self.reach
        return _drawn(ratio.pow(-self.exponent).clamp_max(1.0), generator)


class ExponentialDecay(Structure):
    """Connections with probability exp(-distance / length)."""

    def __init__(
        self,
        length: Annotated[float, Gt(0)] = 0.1,
        plane: bool = False,
        allow_self: bool = True,
    ):
        super().__init__(allow_self)
        self.length = length
        self.plane = plane

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        return _drawn(torch.exp(-_distances(to, from_, self.plane) / self.length), generator)


class Block(Structure):
    """Nodes in `blocks` consecutive groups of equal size.

    Connections between groups of the same number have probability `within`, others `between`.
    """

    def __init__(
        self,
        blocks: Count,
        within: Probability = 1.0,
        between: Annotated[float, Interval(ge=0, le=1)] = 0.0,
        allow_self: bool = True,
    ):
        super().__init__(allow_self)
        self.blocks = blocks
        self.within = within
        self.between = between

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        if self.blocks > min(to, from_):
            raise ValueError(f"blocks: got {self.blocks} for layers of {from_} and {to} nodes")
        same = _groups(to, self.blocks)[:, None] == _groups(from_, self.blocks)
        return _drawn(torch.where(same, self.within, self.between), generator)


class Hierarchical(Structure):
    """Nested groups: each group on one of `levels` levels is split into `branching` groups.

    Nodes of the same innermost group are connected with probability `within`; each level up to
    their smallest common group multiplies it by `decay`.
    """

    def __init__(
        self,
        levels: Count = 3,
        branching: Annotated[int, Ge(2)] = 2,
        within: Probability = 1.0,
        decay: Probability = 0.3,
        allow_self: bool = True,
    ):
        super().__init__(allow_self)
        self.levels = levels
        self.branching = branching
        self.within = within
        self.decay = decay

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        if self.branching**self.levels > min(to, from_):
            raise ValueError(
                f"levels, branching: {self.branching**self.levels} innermost groups for layers of "
                f"{from_} and {to} nodes"
            )
        climbed = torch.zeros(to, from_)
        for level in range(1, self.levels + 1):
            groups = self.branching**level
            climbed += _groups(to, groups)[:, None] != _groups(from_, groups)
        return _drawn(self.within * self.decay**climbed, generator)


class Custom(Structure):
    """A given mask, `[to][from]` of 0 and 1."""

    def __init__(
        self,
        mask: tuple[tuple[Annotated[int, Interval(ge=0, le=1)], ...], ...],
        allow_self: bool = True,
    ):
        super().__init__(allow_self)
        self.rows = mask

    def mask(self, to: int, from_: int, generator: torch.Generator) -> Tensor:
        widths = {len(row) for row in self.rows}
        if len(self.rows) != to or widths != {from_}:
            raise ValueError(
                f"mask: got {len(self.rows)} rows of {sorted(widths)}; expected {to} of {from_}"
            )
        return torch.tensor(self.rows, dtype=torch.float32)


STRUCTURES: dict[str, type[Structure]] = {
    "dense": AllToAll,
    "one_to_one": OneToOne,
    "chain": Chain,
    "sparse": Sparse,
    "constant_fan_in": ConstantFanIn,
    "power_law": PowerLaw,
    "exponential_decay": ExponentialDecay,
    "block": Block,
    "hierarchical": Hierarchical,
    "custom": Custom,
}


def _drawn(probability: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(probability.shape, generator=generator) < probability).float()


def _groups(nodes: int, groups: int) -> Tensor:
    """Number of each node's group, `[nodes]`; group sizes differ by at most one."""
    return torch.arange(nodes) * groups // nodes


def _distances(to: int, from_: int, plane: bool) -> Tensor:
    """Distances `[to, from]` of nodes placed evenly on a line of length 1 or a unit square."""
    return torch.cdist(_places(to, plane), _places(from_, plane))


def _places(nodes: int, plane: bool) -> Tensor:
    if not plane:
        return ((torch.arange(nodes) + 0.5) / nodes)[:, None]
    side = math.ceil(math.sqrt(nodes))
    index = torch.arange(nodes)
    return torch.stack([(index % side + 0.5) / side, (index // side + 0.5) / side], -1)
