"""Superconducting dendrites over a whole sequence.

Shapes: T steps, B batch, N dendrites. A dendrite integrates the current that its SQUID lets through
for a flux phi, and leaks; forward Euler in units of Phi0 / (2 pi Ic R) = 2.7 ps:

    phi[t] = phi_in[t] + phi_offset + J_int s[t-1]
    s[t] = s[t-1] + dt (gamma_plus g(phi[t], bias_current - s[t-1]) - gamma_minus s[t-1])

with g one of the `sources`; states are in units of Ic, flux in Phi0. Three solvers find the s[t]:

    euler   step by step, in one kernel; what the others are measured by
    scan    g at all steps, then the linear recurrence that is left (on the CPU in one pass); only
            where g does not depend on the state. Euler's steps are the same there and go this way
            too: to ask for `scan` is to be told when they would not be.
    newton  all steps at once, linearised about the last trajectory, at most 15 times until no state
            changes by more than 1e-6 of the largest; then g must depend on the state. A sequence on
            which that fails is integrated by Euler, with a RuntimeWarning that says so.

Internal connections need `euler`: no step is known there before the last one. Gradients are the
same for all solvers, Euler's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuro.ops import sources
from neuro.ops.kernels.dendrite_functions import Connected, Independent, previous, rate
from neuro.ops.sequence import (
    channel_row,
    check_choice,
    check_same,
    check_sequence,
    compute_dtype,
    initial_row,
    to_rows,
)
from neuro.ops.sources import STATE_DEPENDENT, Source, check_source

Solver = Literal["euler", "scan", "newton"]
Trace = Literal["phi", "g"]


class DendriteStep(NamedTuple):
    s_BN: Tensor  # after the step
    phi_BN: Tensor  # the whole flux, offset and internal connections included
    g_BN: Tensor


class DendriteOutput(NamedTuple):
    """All carry gradients."""

    s_TBN: Tensor  # after steps 1 to T, in the dtype of the flux
    s_BN: Tensor  # after the last step: the state to go on from
    phi_TBN: Tensor | None  # the whole flux of each step; None unless recorded
    g_TBN: Tensor | None  # None unless recorded


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

    phi_TBN: flux over incoming connections [T, B, N], in Phi0. Narrower floats than float32 are
        computed in float32, which is then the dtype of s_BN and of what is recorded. A tensor
        expanded along T (stride 0) is read, not copied.
    s0_BN: [B, N], the state to start from; None is rest (zeros).
    dt: in units of Phi0 / (2 pi Ic R), a float above 0 or a tensor without dimensions.
    gamma_plus, gamma_minus, phi_offset, bias_current: a scalar, or one value per dendrite [N].
        Gradients reach all of them, dt and the connections. Values in tensors are not checked.
    internal_NN: connections among the dendrites [to, from], which delay one step.
    Raises ValueError for wrong shapes, unknown names, and a solver that does not fit the source or
    the internal connections.
    """
    _check(phi_TBN, dt, source, internal_NN, solver, record)
    dtype, shape = compute_dtype(phi_TBN.dtype), phi_TBN.shape
    phi, s0 = to_rows(phi_TBN, dtype), initial_row("s0", s0_BN, phi_TBN, dtype)
    offset = channel_row("phi_offset", phi_offset, phi_TBN, dtype)
    bias = channel_row("bias_current", bias_current, phi_TBN, dtype)
    leak = dt * channel_row("gamma_minus", gamma_minus, phi_TBN, dtype)
    drive = dt * channel_row("gamma_plus", gamma_plus, phi_TBN, dtype)

    internal = None if internal_NN is None else internal_NN.to(dtype).contiguous()
    rows = phi, s0, offset, bias, leak, drive
    if internal is None:
        s, last = Independent.apply(*rows, source, shape[0], solver == "newton")
    else:
        s, last = Connected.apply(*rows, internal, source, shape[0])

    whole_phi = g = None
    if record:
        whole_phi = phi + offset
        if internal is not None:
            whole_phi = whole_phi + _product(previous(s0, s), internal)
        whole_phi = whole_phi.expand_as(s)
        if "g" in record:
            g = rate(source, whole_phi, bias - previous(s0, s))
    return DendriteOutput(
        s.view(shape).to(phi_TBN.dtype),
        last.view(shape[1:]),
        whole_phi.view(shape) if whole_phi is not None and "phi" in record else None,
        None if g is None else g.view(shape),
    )


def _product(rows: Tensor, internal: Tensor) -> Tensor:
    """Flux [T, M] of the states [T, M] over internal connections."""
    return (rows.view(-1, internal.shape[0]) @ internal.T).view_as(rows)


def _check(
    phi: Tensor,
    dt: float | Tensor,
    source: str,
    internal: Tensor | None,
    solver: str,
    record: Collection[str],
) -> None:
    check_sequence("phi", phi)
    if phi.ndim != 3:
        raise ValueError(f"phi must have shape [T, B, N]; got {list(phi.shape)}.")
    if isinstance(dt, Tensor):
        if dt.ndim != 0:
            raise ValueError(f"dt must be a scalar; got a tensor of shape {list(dt.shape)}.")
    elif not dt > 0:
        raise ValueError(f"dt must be above 0; got {dt}.")
    check_source(source)
    check_choice("solver", solver, get_args(Solver))
    for name in record:
        check_choice("record", name, get_args(Trace))
    if solver == "scan" and source in STATE_DEPENDENT:
        free = ", ".join(kind for kind in sources.SOURCES if kind not in STATE_DEPENDENT)
        raise ValueError(
            f"solver scan needs a source that does not depend on the state ({free}); got "
            f"{source!r}. Use solver euler or newton."
        )
    if solver == "newton" and source not in STATE_DEPENDENT:
        raise ValueError(
            f"solver newton needs a source that depends on the state "
            f"({', '.join(STATE_DEPENDENT)}); got {source!r}, whose steps are linear in it. "
            "Use solver scan."
        )
    if internal is None:
        return
    if solver != "euler":
        raise ValueError(f"internal connections need solver euler; got {solver!r}.")
    check_same("internal", internal, "the dendrites", torch.Size((phi.shape[2],) * 2), phi)


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
    dtype = compute_dtype(phi_TBN.dtype)
    s = torch.zeros_like(phi_TBN[0], dtype=dtype) if s0_BN is None else s0_BN.to(dtype)
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
