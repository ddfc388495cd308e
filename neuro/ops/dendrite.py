"""Superconducting dendrites over a whole sequence.

Shapes: T steps, B batch, N dendrites. A dendrite integrates the output g of its SQUID for a flux
phi and leaks; forward Euler with time in units of Phi0 / (2 pi Ic R) = 2.7 ps:

    phi[t] = phi_in[t] + phi_offset + J_int s[t-1]
    s[t] = s[t-1] + dt (gamma_plus g(phi[t], bias_current - s[t-1]) - gamma_minus s[t-1])

where g is one of the source functions of `sources`; states are in units of Ic, flux in Phi0. There
are three solvers for s[t]:

    euler   step by step, in one kernel; the reference for the others
    scan    g at all steps, then a linear recurrence (on the CPU in one pass). It gives Euler's
            result and is what `euler` does as well where g does not depend on the state; `scan`
            raises an error where it does.
    newton  all steps at once by Newton's method, for g that depends on the state: linearised about
            the last trajectory, at most 15 times, until no state changes by more than 1e-6 of the
            largest. A sequence that does not converge is integrated by Euler, with a
            RuntimeWarning.

Internal connections require `euler`, because the flux of a step depends on the step before it.
Gradients are Euler's for all solvers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from neuro.ops import sources
from neuro.ops.kernels.dendrite_functions import Connected, Independent, previous, rate
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import (
    channel_row,
    check_choice,
    check_same,
    check_sequence,
    compute_dtype,
    initial_row,
    to_rows,
)
from neuro.ops.sources import STATE_DEPENDENT, SourceKind, check_source

Solver = Literal["euler", "scan", "newton"]
Trace = Literal["phi", "g"]


class DendriteStep(NamedTuple):
    """State after one step, and the flux and source current that led to it."""

    s_BN: Tensor
    phi_BN: Tensor  # total flux, offset and internal connections included
    g_BN: Tensor


class DendriteOutput(NamedTuple):
    """States and recorded traces; all of them have gradients."""

    s_TBN: Tensor  # after steps 1 to T, in the dtype of the flux
    s_BN: Tensor  # after the last step: the initial state of a continuation
    phi_TBN: Tensor | None  # total flux at each step; None unless recorded
    g_TBN: Tensor | None  # None unless recorded


@has_plain_form
def dendrite(
    phi_TBN: Tensor,
    s0_BN: Tensor | None = None,
    *,
    dt: float | Tensor,
    gamma_plus: float | Tensor,
    gamma_minus: float | Tensor,
    phi_offset: float | Tensor,
    bias_current: float | Tensor,
    source: SourceKind,
    internal_NN: Tensor | None = None,
    solver: Solver = "euler",
    record: Collection[Trace] = (),
) -> DendriteOutput:
    """Integrate dendrites driven by the flux `phi_TBN`.

    phi_TBN: flux from incoming connections [T, B, N], in Phi0. Floats narrower than float32 are
        computed in float32, which then is the dtype of s_BN and the recorded traces. A tensor
        expanded along T (stride 0) is not copied.
    s0_BN: [B, N], initial state; None is zeros.
    dt: in units of Phi0 / (2 pi Ic R), a float above 0 or a tensor without dimensions.
    gamma_plus, gamma_minus, phi_offset, bias_current: a scalar, or one value per dendrite [N].
        They, dt and the connections have gradients. Values inside tensors are not checked.
    source: kind of source function g.
    internal_NN: connections among the dendrites [to, from], which act with a delay of one step.
    record: traces to return, of total flux "phi" and source current "g".

    Raises ValueError for wrong shapes, unknown names, and a solver that does not fit the source
    function or the internal connections.
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
            before = previous(s0, s).view(-1, internal.shape[0])
            whole_phi = whole_phi + (before @ internal.T).view_as(s)
        whole_phi = whole_phi.expand_as(s)
        if "g" in record:
            g = rate(source, whole_phi, bias - previous(s0, s))
    return DendriteOutput(
        s.view(shape).to(phi_TBN.dtype),
        last.view(shape[1:]),
        whole_phi.view(shape) if whole_phi is not None and "phi" in record else None,
        None if g is None else g.view(shape),
    )


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
    source: SourceKind,
    internal_NN: Tensor | None = None,
) -> DendriteStep:
    """One forward Euler step, differentiable by autograd; arguments as in `dendrite`."""
    phi = phi_BN + phi_offset
    if internal_NN is not None:
        phi = phi + s_BN @ internal_NN.T
    g = sources.source_function(source, phi, bias_current - s_BN)
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
    source: SourceKind,
    internal_NN: Tensor | None = None,
    solver: Solver = "euler",
    record: Collection[Trace] = (),
) -> DendriteOutput:
    """`dendrite` step by step, differentiated by autograd: the reference for the kernels.

    All solvers have this result, by other operations.
    """
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
