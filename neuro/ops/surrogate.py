"""Surrogate derivatives of the spike function.

The derivative of a spike s = H(x), x = v - theta, is 0 almost everywhere, so the backward pass uses
that of a smooth step of slope k (Neftci, Mostafa & Zenke 2019, "Surrogate gradient learning in
spiking neural networks"). The forward pass stays exactly binary.

| kind           | ds/dx                          | at x = 0 | source                             |
|----------------|--------------------------------|----------|------------------------------------|
| `fast_sigmoid` | 1 / (1 + k abs(x))^2           | 1        | Zenke & Ganguli 2018 (SuperSpike)  |
| `atan`         | (k / 2) / (1 + (pi k x / 2)^2) | k / 2    | Fang et al. 2021 (PLIF)            |
| `triangle`     | max(0, 1 - k abs(x))           | 1        | Bellec et al. 2018 (LSNN)          |
| `sigmoid`      | k sigmoid(kx) (1 - sigmoid(kx))| k / 4    | Neftci et al. 2019                 |

The membrane potential v has no unit here; k is in 1/v. `sigmoid` needs an exponential and is the
slowest of the four in the fused kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.errors import nearest
from neuro.ops.plain import are_plain

SurrogateKind = Literal["fast_sigmoid", "atan", "triangle", "sigmoid"]
KINDS: tuple[SurrogateKind, ...] = get_args(SurrogateKind)


@dataclass(frozen=True)
class Surrogate:
    """Kind and slope of the surrogate. ValueError for an unknown kind or a slope not above 0."""

    kind: SurrogateKind = "fast_sigmoid"
    slope: float = 10.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"surrogate kind must be one of {', '.join(KINDS)}; got {self.kind!r}."
                + nearest(self.kind, KINDS)
            )
        if not (math.isfinite(self.slope) and self.slope > 0):
            raise ValueError(f"surrogate slope must be finite and above 0; got {self.slope}.")

        # Numba would compile the kernels a second time for an integer slope.
        object.__setattr__(self, "slope", float(self.slope))

    @property
    def code(self) -> int:
        """Number of the kind, as used in the compiled kernels."""
        return KINDS.index(self.kind)


DEFAULT_SURROGATE = Surrogate()


def surrogate_derivative(x: Tensor, surrogate: Surrogate) -> Tensor:
    """ds/dx of the smooth step at x = v - theta, elementwise, any shape."""
    k = surrogate.slope
    if surrogate.kind == "fast_sigmoid":
        return (1 + (k * x).abs()).square().reciprocal()
    if surrogate.kind == "atan":
        return (k / 2) / (1 + (math.pi / 2 * k * x).square())
    if surrogate.kind == "triangle":
        return (1 - (k * x).abs()).clamp(min=0)
    # The derivative is even in x, and exp(-|kx|) cannot overflow.
    e = (-(k * x).abs()).exp()
    return k * e / (1 + e).square()


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_spikes * surrogate_derivative(x, ctx.surrogate), None


def spike(v_minus_theta: Tensor, surrogate: Surrogate) -> Tensor:
    """H(v - theta), 1 where v >= theta and else 0, with the surrogate's gradient.

    For code that runs step by step; `lif` and `dual_lif` are faster for whole sequences.
    """
    if are_plain():  # without a gradient
        return (v_minus_theta >= 0).to(v_minus_theta.dtype)
    spikes: Tensor = _Spike.apply(v_minus_theta, surrogate)
    return spikes
