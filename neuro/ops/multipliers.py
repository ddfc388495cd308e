"""Multiplying dendrites of two opposed SQUIDs, over a whole sequence.

Shapes: T steps, B batch, N units. One SQUID receives the sum of a flux phi and a second flux phi_y,
the other their difference; the difference of their outputs approximates the product of the fluxes.
Forward Euler with time in units of Phi0 / (2 pi Ic R):

    WICC   s' = gamma_plus (g(phi + phi_y, i_b - s) - g(phi - phi_y, i_b + s)) - gamma_minus s

    NOCC   g1 = g(phi + phi_y, |i_b - s1|),   g2 = g(phi - phi_y, |s2 - i_b|)
           (beta + 2 beta_out) m' = g1 - g2 - alpha m
           beta s1' = g1 - beta_out m' - alpha s1
           beta s2' = g2 - beta_out m' - alpha s2

with |x| smoothed as sqrt(x^2 + .01). The output of NOCC is m. Each unit has its own output loop, so
the N of the general equation, beta + 2 N beta_out, is 1. s1' and s2' depend on m', and m' only on
states: m' is computed first, and the step is explicit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from neuro.ops import sources
from neuro.ops.kernels.dendrite_functions import rate
from neuro.ops.kernels.elementwise import run_elementwise
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import check_same, check_sequence, compute_dtype
from neuro.ops.sources import SourceKind, check_source

SMOOTHING = 0.01  # of |x|, as sqrt(x^2 + .01): the gradient of |x| jumps at 0

#: source function g(phi, squid current)
Rate: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class WICCOutput(NamedTuple):
    """States of WICC multipliers, and the last one."""

    s_TBN: Tensor  # after steps 1 to T, in the dtype of phi
    s_BN: Tensor  # after the last step: the initial state of a continuation


class NOCCState(NamedTuple):
    """Currents of a NOCC multiplier, `[B, N]`."""

    m: Tensor  # output loop
    s1: Tensor  # loop of the SQUID that receives phi + phi_y
    s2: Tensor  # loop of the SQUID that receives phi - phi_y


class NOCCOutput(NamedTuple):
    """Outputs of NOCC multipliers, and the last state."""

    m_TBN: Tensor  # after steps 1 to T, in the dtype of phi
    state: NOCCState  # after the last step: the initial state of a continuation


@has_plain_form
def wicc(
    phi_TBN: Tensor,
    s0_BN: Tensor | None = None,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
    source: SourceKind,
) -> WICCOutput:
    """Integrate WICC multipliers driven by the flux `phi_TBN` [T, B, N], in Phi0.

    s0_BN: [B, N], initial state; None is zeros.
    dt: a scalar; gamma_plus, gamma_minus, bias_current, phi_y: a scalar, or one value per unit [N].
        All of them have gradients. Floats narrower than float32 are computed in float32.
    source: kind of source function, one that depends on the state.
    Raises ValueError for wrong shapes and an unknown source.
    """
    values = {
        "dt": dt,
        "gamma_plus": gamma_plus,
        "gamma_minus": gamma_minus,
        "bias_current": bias_current,
        "phi_y": phi_y,
    }
    phi, (s0,), rows = _prepare(phi_TBN, {"s0": s0_BN}, values, source)

    def step(
        phi: Tensor, states: tuple[Tensor, ...], parameters: tuple[Tensor, ...]
    ) -> tuple[Tensor]:
        named = dict(zip(values, parameters, strict=True))
        return (_wicc_step(partial(rate, source), phi, *states, **named),)

    (s,), (last,) = run_elementwise(step, phi, (s0,), rows)
    return WICCOutput(s.to(phi_TBN.dtype), last)


def wicc_step(
    phi_BN: Tensor,
    s_BN: Tensor,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
    source: SourceKind,
) -> Tensor:
    """State [B, N] after one step, differentiable by autograd; arguments as in `wicc`."""
    return _wicc_step(
        partial(sources.source_function, source),
        phi_BN,
        s_BN,
        dt=dt,
        gamma_plus=gamma_plus,
        gamma_minus=gamma_minus,
        bias_current=bias_current,
        phi_y=phi_y,
    )


def _wicc_step(
    g: Rate,
    phi: Tensor,
    s: Tensor,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
) -> Tensor:
    # the storage loop carries s through one SQUID with its bias current and through one against it
    difference = g(phi + phi_y, bias_current - s) - g(phi - phi_y, bias_current + s)
    return s + dt * (gamma_plus * difference - gamma_minus * s)


@has_plain_form
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
    source: SourceKind,
) -> NOCCOutput:
    """Integrate NOCC multipliers driven by the flux `phi_TBN` [T, B, N], in Phi0.

    state: initial state; None is zeros.
    dt: a scalar; alpha, beta, beta_out, bias_current, phi_y: a scalar, or one value per unit [N].
    Gradients, dtypes and errors are those of `wicc`.
    """
    values = {
        "dt": dt,
        "alpha": alpha,
        "beta": beta,
        "beta_out": beta_out,
        "bias_current": bias_current,
        "phi_y": phi_y,
    }
    first: dict[str, Tensor | None] = {
        f"state.{name}": None if state is None else getattr(state, name)
        for name in NOCCState._fields
    }
    phi, states, rows = _prepare(phi_TBN, first, values, source)

    def step(
        phi: Tensor, states: tuple[Tensor, ...], parameters: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        named = dict(zip(values, parameters, strict=True))
        return _nocc_step(partial(rate, source), phi, NOCCState(*states), **named)

    traces, last = run_elementwise(step, phi, states, rows)
    return NOCCOutput(traces[0].to(phi_TBN.dtype), NOCCState(*last))


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
    source: SourceKind,
) -> NOCCState:
    """State after one step, differentiable by autograd; arguments as in `nocc`."""
    return _nocc_step(
        partial(sources.source_function, source),
        phi_BN,
        state,
        dt=dt,
        alpha=alpha,
        beta=beta,
        beta_out=beta_out,
        bias_current=bias_current,
        phi_y=phi_y,
    )


def _nocc_step(
    g: Rate,
    phi: Tensor,
    state: NOCCState,
    *,
    dt: float | Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
    beta_out: float | Tensor,
    bias_current: float | Tensor,
    phi_y: float | Tensor,
) -> NOCCState:
    m, s1, s2 = state
    g1 = g(phi + phi_y, _magnitude(bias_current - s1))
    g2 = g(phi - phi_y, _magnitude(s2 - bias_current))
    change = dt * (g1 - g2 - alpha * m) / (beta + 2 * beta_out)
    return NOCCState(
        m + change,
        s1 + (dt * (g1 - alpha * s1) - beta_out * change) / beta,
        s2 + (dt * (g2 - alpha * s2) - beta_out * change) / beta,
    )


def _magnitude(x: Tensor) -> Tensor:
    return (x.square() + SMOOTHING).sqrt()


def _prepare(
    phi: Tensor,
    states: dict[str, Tensor | None],
    parameters: dict[str, float | Tensor],
    source: str,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Check flux, states and parameters, and convert them to the dtype of the computation."""
    check_sequence("phi", phi)
    check_source(source)
    dtype = compute_dtype(phi.dtype)
    rows = []
    for name, value in parameters.items():
        row = torch.as_tensor(value, dtype=dtype, device=phi.device)
        if row.ndim != 0 and (name == "dt" or row.shape != phi.shape[-1:]):
            alternative = "" if name == "dt" else f" or have shape [{phi.shape[-1]}]"
            raise ValueError(f"{name} must be a scalar{alternative}; got {list(row.shape)}.")
        rows.append(row)
    first = []
    for name, state in states.items():
        if state is not None:
            check_same(name, state, "phi", phi.shape[1:], phi)
        first.append(
            phi.new_zeros(phi.shape[1:], dtype=dtype) if state is None else state.to(dtype)
        )
    return phi.to(dtype), tuple(first), tuple(rows)


def wicc_reference(phi_TBN: Tensor, s0_BN: Tensor | None = None, **parameters: Any) -> WICCOutput:
    """`wicc` step by step, differentiated by autograd: its definition."""
    s = torch.zeros_like(phi_TBN[0]) if s0_BN is None else s0_BN
    states = []
    for phi in phi_TBN.unbind():
        s = wicc_step(phi, s, **parameters)
        states.append(s)
    return WICCOutput(torch.stack(states), s)


def nocc_reference(
    phi_TBN: Tensor, state: NOCCState | None = None, **parameters: Any
) -> NOCCOutput:
    """`nocc` step by step, differentiated by autograd: its definition."""
    state = state or NOCCState(*(torch.zeros_like(phi_TBN[0]) for _ in NOCCState._fields))
    outputs = []
    for phi in phi_TBN.unbind():
        state = nocc_step(phi, state, **parameters)
        outputs.append(state.m)
    return NOCCOutput(torch.stack(outputs), state)
