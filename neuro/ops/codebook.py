"""Rounding to a codebook: evenly spaced levels between two ends, one of them always zero."""

from __future__ import annotations

import torch
from torch import Tensor


def codebook(levels: int, minimum: float, maximum: float) -> Tensor:
    """`[levels]` values from `minimum` to `maximum`; the one nearest to zero is made zero.

    An even number of levels of a symmetric range has none at zero, but a synapse that is not
    there must be representable. ValueError where the range has no zero.
    """
    if not minimum <= 0 <= maximum or minimum == maximum:
        raise ValueError(f"minimum ({minimum}) and maximum ({maximum}) must have zero between them")
    values = torch.linspace(minimum, maximum, levels)
    values[values.abs().argmin()] = 0.0
    return values


def nearest_level(weight: Tensor, levels: Tensor) -> Tensor:
    """Each weight's nearest level; in the middle between two, the lower one. No gradient."""
    levels = levels.to(weight)
    borders = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(weight.detach(), borders)]


def straight_through(weight: Tensor, levels: Tensor) -> Tensor:
    """The nearest levels, with the gradient of the weights themselves (Bengio et al. 2013)."""
    return weight + (nearest_level(weight, levels) - weight).detach()
