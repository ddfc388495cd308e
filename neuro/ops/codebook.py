"""Quantization of weights to a codebook of evenly spaced levels, one of which is zero."""

from __future__ import annotations

import torch
from torch import Tensor


def levels_of(bits: int) -> int:
    """Number of levels of a width in bits: 2^bits steps and zero, so that all steps are equal.

    An even number of levels over a symmetric range would have none at zero.
    """
    return 2**bits + 1


def codebook(levels: int, minimum: float, maximum: float) -> Tensor:
    """Evenly spaced levels `[levels]`, of which the one nearest to zero is set to zero.

    Raises ValueError if the range does not contain zero.
    """
    if not minimum <= 0 <= maximum or minimum == maximum:
        raise ValueError(f"minimum ({minimum}) and maximum ({maximum}) must have zero between them")
    values = torch.linspace(minimum, maximum, levels)
    # An even number of levels over a symmetric range has none at zero; pruned synapses need one.
    values[values.abs().argmin()] = 0.0
    return values


def nearest_level(weight: Tensor, levels: Tensor) -> Tensor:
    """The nearest level of each weight, the lower one halfway between two. No gradient."""
    levels = levels.to(weight)
    borders = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(weight.detach(), borders)]


def straight_through(weight: Tensor, levels: Tensor) -> Tensor:
    """The nearest levels, with the identity as gradient (straight-through, Bengio et al. 2013)."""
    return weight + (nearest_level(weight, levels) - weight).detach()
