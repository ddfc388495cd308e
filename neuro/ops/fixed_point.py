"""Integer arithmetic that training and hardware export share: rounding to a few bits.

Weights of a layer share one scale. Signed integers of b bits hold -2^(b-1) .. 2^(b-1) - 1; the
scale maps the largest magnitude to 2^(b-1) - 1, so that zero stays zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantisation_scale(weight: Tensor, bits: int) -> Tensor:
    """Size of one integer step for a tensor: max |w| / (2^(bits-1) - 1), a scalar."""
    return weight.abs().amax().clamp_min(torch.finfo(weight.dtype).tiny) / (2 ** (bits - 1) - 1)


def quantise(weight: Tensor, bits: int) -> Tensor:
    """The nearest representable values, in float."""
    scale = quantisation_scale(weight, bits)
    return (weight / scale).round() * scale


def quantisation_error(weight: Tensor, bits: int) -> float:
    """||w - quantised w|| / ||w||, 0 for a tensor of zeros."""
    norm = weight.norm()
    return float((weight - quantise(weight, bits)).norm() / norm) if norm > 0 else 0.0
