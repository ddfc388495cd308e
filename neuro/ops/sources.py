"""Source functions g of dendrites: the SQUID's output for a flux phi.

Three kinds also depend on the SQUID current i, the bias current minus the dendrite's state:

    table       the simulated SQUID, interpolated (`squid`)
    fitted      sigmoid(100 d) max(d, eps)^(1/N),
                d = A max(i - C, eps)^K - B (|cos(pi phi)| + eps)^M
    tanh_gauss  R c^Q tanh(exp(-((phi mod 1) - 1/2)^2 / (2 W^2))),  c = clamp(i, .7, 1.7) - .7

and four depend on phi only: tanh, relu, telu = phi tanh(exp(phi)) and
gelu = phi (1 + tanh(.8 phi)) / 2.

Errors of the two fits against the table, over all phi: `fitted`, for i in [.95, 2.5], .16 at most
(at the onset) and .02 root mean square; `tanh_gauss`, for i in [.7, 1.7], .16 and .05.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuro.errors import nearest
from neuro.ops.squid import table_cell

SourceKind = Literal["fitted", "table", "tanh_gauss", "tanh", "relu", "telu", "gelu"]
SOURCES: tuple[SourceKind, ...] = get_args(SourceKind)
STATE_DEPENDENT: tuple[SourceKind, ...] = ("fitted", "table", "tanh_gauss")

# Constants of `fitted`
A, B, C = 0.37091212, 0.31903101, 1.06435066
K, M, N = 1.92138556, 2.50322787, 2.62706077
EPS, STEEPNESS = 1e-6, 100.0
# Constants of `tanh_gauss`
R, Q, WIDTH = 0.784537, 2.54841, 0.126327
CLAMP_LOW, CLAMP_HIGH = 0.7, 1.7

GELU_SLOPE = 0.8
# tanh(exp(x)) is 1 to the last bit of float64 for x above this; exp overflows float32 at 89.
SATURATED = 5.0


class Slopes(NamedTuple):
    """Value and derivatives of a source function, elementwise."""

    g: Tensor
    dphi: Tensor  # dg/dphi
    di: Tensor  # dg/di; zeros where g does not depend on i


def depends_on_state(kind: SourceKind) -> bool:
    """True if g depends on the SQUID current, and so on the dendrite's own state."""
    return kind in STATE_DEPENDENT


def check_source(kind: str) -> None:
    """Check for a known kind of source function. ValueError otherwise."""
    if kind not in SOURCES:
        raise ValueError(
            f"source must be one of {', '.join(SOURCES)}; got {kind!r}.{nearest(kind, SOURCES)}"
        )


def source_function(kind: SourceKind, phi: Tensor, squid_current: Tensor | None = None) -> Tensor:
    """g, elementwise and differentiable by autograd.

    phi: flux in Phi0, any shape. squid_current: in units of Ic, of a shape that broadcasts with
        phi's; required by kinds that depend on the state, ignored by the others.
    Raises ValueError for an unknown kind or a missing SQUID current.
    """
    check_source(kind)
    if kind == "tanh":
        return phi.tanh()
    if kind == "relu":
        return phi.relu()
    if kind == "telu":
        return phi * phi.clamp(max=SATURATED).exp().tanh()
    if kind == "gelu":
        return 0.5 * phi * (1 + (GELU_SLOPE * phi).tanh())
    if squid_current is None:
        raise ValueError(f"source {kind!r} depends on the state; it needs the squid current.")
    phi, squid_current = torch.broadcast_tensors(phi, squid_current)
    if kind == "fitted":
        return _fitted(phi, squid_current)
    if kind == "tanh_gauss":
        c = squid_current.clamp(CLAMP_LOW, CLAMP_HIGH) - CLAMP_LOW
        delta = phi - phi.floor() - 0.5
        return R * c**Q * (-delta.square() / (2 * WIDTH**2)).exp().tanh()
    at = table_cell(phi, squid_current)
    low = torch.lerp(at.low_low, at.low_high, at.y)
    return torch.lerp(low, torch.lerp(at.high_low, at.high_high, at.y), at.x)


def _fitted(phi: Tensor, i: Tensor) -> Tensor:
    # EPS keeps bases positive: powers of negative numbers are NaN, and d^(1/N) is steep at 0
    above = A * (i - C).clamp(min=EPS) ** K
    d = above - B * ((math.pi * phi).cos().abs() + EPS) ** M
    return (STEEPNESS * d).sigmoid() * d.clamp(min=EPS) ** (1 / N)


def slopes(kind: SourceKind, phi: Tensor, squid_current: Tensor | None = None) -> Slopes:
    """g and its derivatives in closed form, for backward passes and Newton's method; no gradient.

    Arguments and errors are those of `source_function`; phi and SQUID current have the same shape.
    """
    g = source_function(kind, phi, squid_current)
    if squid_current is None or not depends_on_state(kind):
        return Slopes(g, _dphi(kind, phi), torch.zeros_like(g))
    if kind == "fitted":
        return _fitted_slopes(phi, squid_current)
    if kind == "tanh_gauss":
        return _tanh_gauss_slopes(phi, squid_current)
    at = table_cell(phi, squid_current)
    low, high = at.low_high - at.low_low, at.high_high - at.high_low
    left, right = at.high_low - at.low_low, at.high_high - at.low_high
    return Slopes(
        g,
        torch.lerp(low, high, at.x) * at.dy_dphi,
        torch.lerp(left, right, at.y) * at.dx_di,
    )


def _dphi(kind: SourceKind, phi: Tensor) -> Tensor:
    """dg/dphi of the kinds that depend on phi only."""
    if kind == "tanh":
        return 1 - phi.tanh().square()
    if kind == "relu":
        return (phi > 0).to(phi.dtype)
    if kind == "telu":
        e = phi.clamp(max=SATURATED).exp()
        t = e.tanh()
        return t + phi * e * (1 - t.square()) * (phi <= SATURATED)
    t = (GELU_SLOPE * phi).tanh()
    return 0.5 * (1 + t + GELU_SLOPE * phi * (1 - t.square()))


def _fitted_slopes(phi: Tensor, i: Tensor) -> Slopes:
    x = (i - C).clamp(min=EPS)
    above = A * x**K
    dabove_di = K * above / x * (i - C >= EPS)
    cosine = (math.pi * phi).cos()
    w = cosine.abs() + EPS
    below = B * w**M
    dbelow_dphi = -math.pi * M * below / w * (math.pi * phi).sin() * cosine.sign()
    d = above - below
    h = (STEEPNESS * d).sigmoid()
    e = d.clamp(min=EPS)
    g = h * e ** (1 / N)
    dd = g * (STEEPNESS * (1 - h) + (d >= EPS) / (N * e))
    return Slopes(g, -dd * dbelow_dphi, dd * dabove_di)


def _tanh_gauss_slopes(phi: Tensor, i: Tensor) -> Slopes:
    c = i.clamp(CLAMP_LOW, CLAMP_HIGH) - CLAMP_LOW
    delta = phi - phi.floor() - 0.5
    bell = (-delta.square() / (2 * WIDTH**2)).exp()
    t = bell.tanh()
    inside = (i >= CLAMP_LOW) & (i <= CLAMP_HIGH)
    height = R * c**Q
    return Slopes(
        height * t,
        height * (1 - t.square()) * bell * (-delta / WIDTH**2),
        R * Q * c ** (Q - 1) * t * inside,
    )
