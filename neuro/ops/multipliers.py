"""Multiplying dendrites: two SQUIDs against each other, over a whole sequence.

Shapes: T steps, B batch, N units. Both read a flux phi and a second one phi_y, which one SQUID adds
and the other subtracts, so that the difference of their currents grows like the product. Forward
Euler in units of Phi0 / (2 pi Ic R):

    WICC   s' = gamma_plus (g(phi + phi_y, i_b - s) - g(phi - phi_y, i_b + s)) - gamma_minus s

    NOCC   g1 = g(phi + phi_y, |i_b - s1|),   g2 = g(phi - phi_y, |s2 - i_b|)
           (beta + 2 beta_out) m' = g1 - g2 - alpha m
           beta s1' = g1 - beta_out m' - alpha s1
           beta s2' = g2 - beta_out m' - alpha s2

with |x| smoothed as sqrt(x^2 + .01). The output of NOCC is m; each unit has an output loop of its
own (the N of the general equation, beta + 2 N beta_out, is 1). s1' and s2' hang on m', which hangs
on states alone: it is found first, and nothing is implicit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuro.ops._sequence import check_same, check_sequence, compute_dtype
from neuro.ops.sources import Source
from neuro.ops.sources import source as rate

SMOOTHING = 0.01  # in sqrt(x^2 + .01), instead of |x|


class NOCCState(NamedTuple):
    m: Tensor  # [B, N], current of the output loop
    s1: Tensor  # [B, N], of the loop whose SQUID adds phi_y
    s2: Tensor


class WICCOutput(NamedTuple):
    s_TBN: Tensor  # after steps 1 to T, in the dtype of phi
    s_BN: Tensor  # the state to go on from


class NOCCOutput(NamedTuple):
    m_TBN: Tensor  # after steps 1 to T, in the dtype of phi
    state: NOCCState  # to go on from


def wicc_step(
    phi_BN: Tensor,
    s_BN: Tensor,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
    source: Source,
) -> Tensor:
    """The state [B, N] after one step, through autograd; arguments as of `wicc`."""
    plus = rate(source, phi_BN + phi_y, bias_current - s_BN)
    minus = rate(source, phi_BN - phi_y, bias_current + s_BN)
    return s_BN + dt * (gamma_plus * (plus - minus) - gamma_minus * s_BN)


def wicc(
    phi_TBN: Tensor,
    s0_BN: Tensor | None = None,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
    source: Source,
) -> WICCOutput:
    """States of WICC multipliers driven by the flux `phi_TBN` [T, B, N], in Phi0.

    s0_BN: [B, N], the state to start from; None is rest (zeros).
    dt: a float or a tensor without dimensions; gamma_plus, gamma_minus, bias_current, phi_y: a
        float, or one value per unit [N].
    """
    check_sequence("phi", phi_TBN)
    dtype = compute_dtype(phi_TBN.dtype)
    s = _initial("s0", s0_BN, phi_TBN, dtype)
    states = []
    for phi in phi_TBN.to(dtype).unbind():
        s = wicc_step(
            phi,
            s,
            dt=dt,
            gamma_plus=gamma_plus,
            gamma_minus=gamma_minus,
            bias_current=bias_current,
            phi_y=phi_y,
            source=source,
        )
        states.append(s)
    return WICCOutput(torch.stack(states).to(phi_TBN.dtype), s)


def nocc_step(
    phi_BN: Tensor,
    state: NOCCState,
    *,
    dt: float | Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
    beta_out: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
    source: Source,
) -> NOCCState:
    """The state after one step, through autograd; arguments as of `nocc`."""
    m, s1, s2 = state
    g1 = rate(source, phi_BN + phi_y, _magnitude(bias_current - s1))
    g2 = rate(source, phi_BN - phi_y, _magnitude(s2 - bias_current))
    change = dt * (g1 - g2 - alpha * m) / (beta + 2 * beta_out)
    return NOCCState(
        m + change,
        s1 + (dt * (g1 - alpha * s1) - beta_out * change) / beta,
        s2 + (dt * (g2 - alpha * s2) - beta_out * change) / beta,
    )


def nocc(
    phi_TBN: Tensor,
    state: NOCCState | None = None,
    *,
    dt: float | Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
    beta_out: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
    source: Source,
) -> NOCCOutput:
    """Outputs of NOCC multipliers driven by the flux `phi_TBN` [T, B, N], in Phi0.

    state: to start from; None is rest (zeros).
    dt: a float or a tensor without dimensions; the rest a float, or one value per unit [N].
    """
    check_sequence("phi", phi_TBN)
    dtype = compute_dtype(phi_TBN.dtype)
    now = NOCCState(
        *(
            _initial(f"state.{name}", None if state is None else value, phi_TBN, dtype)
            for name, value in zip(NOCCState._fields, state or (None,) * 3, strict=True)
        )
    )
    outputs = []
    for phi in phi_TBN.to(dtype).unbind():
        now = nocc_step(
            phi,
            now,
            dt=dt,
            alpha=alpha,
            beta=beta,
            beta_out=beta_out,
            bias_current=bias_current,
            phi_y=phi_y,
            source=source,
        )
        outputs.append(now.m)
    return NOCCOutput(torch.stack(outputs).to(phi_TBN.dtype), now)


def _magnitude(x: Tensor) -> Tensor:
    return (x.square() + SMOOTHING).sqrt()


def _initial(name: str, state: Tensor | None, phi: Tensor, dtype: torch.dtype) -> Tensor:
    if state is None:
        return torch.zeros_like(phi[0], dtype=dtype)
    check_same(name, state, "phi", phi.shape[1:], phi)
    return state.to(dtype)
