"""Superconducting dendrites over a whole sequence.

Shapes: T steps, B batch, N dendrites. A dendrite integrates the current that its SQUID lets through
for a flux phi, and leaks; forward Euler in units of Phi0 / (2 pi Ic R) = 2.7 ps:

    phi[t] = phi_in[t] + phi_offset + J_int s[t-1]
    s[t] = s[t-1] + dt (gamma_plus g(phi[t], bias_current - s[t-1]) - gamma_minus s[t-1])

with g one of the `sources`. States are in units of Ic, flux in Phi0.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuro.ops import sources
from neuro.ops._sequence import check_choice, check_same, check_sequence, compute_dtype
from neuro.ops.sources import Source

Solver = Literal["euler", "scan", "newton"]
Trace = Literal["phi", "g"]


class DendriteStep(NamedTuple):
    s_BN: Tensor  # after the step
    phi_BN: Tensor  # the whole flux, offset and internal connections included
    g_BN: Tensor


class DendriteOutput(NamedTuple):
    """All carry gradients."""

    s_TBN: Tensor  # after steps 1 to T, in the dtype of phi
    s_BN: Tensor  # after the last step: the state to go on from
    phi_TBN: Tensor | None  # the whole flux of each step; None unless recorded
    g_TBN: Tensor | None  # None unless recorded


def dendrite_step(
    phi_BN: Tensor,
    s_BN: Tensor,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    phi_offset: float | Tensor,
    bias_current: float | Tensor,
    source: Source,
    internal_NN: Tensor | None = None,
) -> DendriteStep:
    """One forward Euler step through autograd; arguments as of `dendrite`."""
    phi = phi_BN + phi_offset
    if internal_NN is not None:
        phi = phi + s_BN @ internal_NN.T
    g = sources.source(source, phi, bias_current - s_BN)
    return DendriteStep(s_BN + dt * (gamma_plus * g - gamma_minus * s_BN), phi, g)


def dendrite(
    phi_TBN: Tensor,
    s0_BN: Tensor | None = None,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    phi_offset: float | Tensor,
    bias_current: float | Tensor,
    source: Source,
    internal_NN: Tensor | None = None,
    solver: Solver = "euler",
    record: Collection[Trace] = (),
) -> DendriteOutput:
    """States of dendrites driven by the flux `phi_TBN`; whole flux and source current on request.

    phi_TBN: flux over incoming connections [T, B, N], in Phi0.
    s0_BN: [B, N], the state to start from; None is rest (zeros).
    dt: in units of Phi0 / (2 pi Ic R), a float or a tensor without dimensions.
    gamma_plus, gamma_minus, phi_offset, bias_current: a float, or one value per dendrite [N].
    internal_NN: connections among the dendrites [to, from], which delay one step.
    """
    check_choice("solver", solver, get_args(Solver))
    return dendrite_reference(
        phi_TBN,
        s0_BN,
        dt=dt,
        gamma_plus=gamma_plus,
        gamma_minus=gamma_minus,
        phi_offset=phi_offset,
        bias_current=bias_current,
        source=source,
        internal_NN=internal_NN,
        record=record,
    )


def dendrite_reference(
    phi_TBN: Tensor,
    s0_BN: Tensor | None = None,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    phi_offset: float | Tensor,
    bias_current: float | Tensor,
    source: Source,
    internal_NN: Tensor | None = None,
    record: Collection[Trace] = (),
) -> DendriteOutput:
    """`dendrite` step by step through autograd: what the kernels are tested against."""
    check_sequence("phi", phi_TBN)
    dtype = compute_dtype(phi_TBN.dtype)
    if s0_BN is None:
        s = torch.zeros_like(phi_TBN[0], dtype=dtype)
    else:
        check_same("s0", s0_BN, "phi", phi_TBN.shape[1:], phi_TBN)
        s = s0_BN.to(dtype)
    steps = []
    for phi in phi_TBN.to(dtype).unbind():
        step = dendrite_step(
            phi,
            s,
            dt=dt,
            gamma_plus=gamma_plus,
            gamma_minus=gamma_minus,
            phi_offset=phi_offset,
            bias_current=bias_current,
            source=source,
            internal_NN=internal_NN,
        )
        s = step.s_BN
        steps.append(step)
    s_TBN, whole_phi, g = (torch.stack(trace) for trace in zip(*steps, strict=True))
    return DendriteOutput(
        s_TBN.to(phi_TBN.dtype),
        s,
        whole_phi if "phi" in record else None,
        g if "g" in record else None,
    )
