"""Autograd functions of dendrites over a whole sequence.

Rows as in `spiking`: sequences are [T, M], or [1, M] if constant in time; states and parameters
[M], with M = B N. With leak = dt gamma_minus and drive = dt gamma_plus, a step is

    s[t] = s[t-1] + drive g(phi[t], i[t]) - leak s[t-1],   i[t] = bias - s[t-1]

and the gradient, for known states, a linear recurrence backward in time:

    dL/dphi[t] = drive g_phi[t] dL/ds[t]
    dL/ds[t-1] = (1 - leak - drive g_i[t]) dL/ds[t] + J_int^T dL/dphi[t] + grad_s[t-1]

where g_phi and g_i are derivatives of g, and grad_s the gradient of the returned states. Saved are
the flux and the states; g and its derivatives are computed again.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import launch, launch_dendrites
from neuro.ops.sequence import empty_gradient, gradient_row, gradient_rows
from neuro.ops.sources import SourceKind

ITERATIONS = 15  # of Newton's method at most
HALVINGS = 5  # bisection steps of its starting point
TOLERANCE = 1e-6  # change of the states by an iteration, relative where they exceed 1


class Independent(torch.autograd.Function):
    """Dendrites without internal connections: one kernel call forward, one backward."""

    @staticmethod
    def forward(
        ctx: Any,
        phi: Tensor,
        s0: Tensor,
        offset: Tensor,
        bias: Tensor,
        leak: Tensor,
        drive: Tensor,
        kind: SourceKind,
        steps: int,
        newton: bool,
    ) -> tuple[Tensor, Tensor]:
        inputs = phi, offset, bias, leak, drive, s0
        states = _newton(kind, *inputs, steps) if newton else None  # None: it did not converge
        if states is None:
            states = phi.new_empty(steps, s0.numel())
            launch_dendrites("forward", kind, *inputs, states)
        ctx.save_for_backward(*inputs, states)
        ctx.set_materialize_grads(False)
        ctx.kind = kind
        return states, states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        phi, offset, bias, leak, drive, s0, _ = ctx.saved_tensors
        carry = gradient_row(grad_last, s0)
        grad_phi = empty_gradient(phi)
        grads = [torch.zeros_like(row) for row in (offset, bias, leak, drive)]
        launch_dendrites(
            "backward",
            ctx.kind,
            *ctx.saved_tensors,
            gradient_rows(grad_states, s0),
            carry,
            grad_phi,
            *grads,
        )
        return grad_phi, carry, *grads, None, None, None


class Connected(torch.autograd.Function):
    """Dendrites with internal connections [to, from], which act with a delay of one step.

    A forward step is a matrix product and a kernel call. Backward, the derivatives of g are
    computed for all steps at once; each step then takes a matrix product and a sum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        phi: Tensor,
        s0: Tensor,
        offset: Tensor,
        bias: Tensor,
        leak: Tensor,
        drive: Tensor,
        internal: Tensor,
        kind: SourceKind,
        steps: int,
    ) -> tuple[Tensor, Tensor]:
        states = phi.new_empty(steps, s0.numel())
        width = internal.shape[0]
        flux, before = torch.empty_like(s0), s0
        for t in range(steps):
            arriving = phi[min(t, phi.shape[0] - 1)].view(-1, width)
            torch.addmm(arriving, before.view(-1, width), internal.T, out=flux.view(-1, width))
            now = states[t : t + 1]
            launch_dendrites("forward", kind, flux[None], offset, bias, leak, drive, before, now)
            before = now[0]
        ctx.save_for_backward(phi, offset, bias, leak, drive, s0, internal, states)
        ctx.set_materialize_grads(False)
        ctx.kind = kind
        return states, before.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        phi, offset, bias, leak, drive, s0, internal, states = ctx.saved_tensors
        width = internal.shape[0]
        before = previous(s0, states)
        # All states are known, so one matrix product gives the flux of all steps.
        flux = (before.view(-1, width) @ internal.T).view_as(states).add_(phi).add_(offset)
        g, by_phi, by_i = rates_and_slopes(ctx.kind, flux, bias - before)
        to_flux, to_i = by_phi.mul_(drive), by_i.mul_(drive)
        decay = 1 - (leak + to_i)
        rows, carry = gradient_rows(grad_states, s0), gradient_row(grad_last, s0)
        totals = torch.empty_like(states)
        # Only this recurrence is sequential; `to_flux[t]` becomes dL/dphi[t] in place.
        for t in range(len(states) - 1, -1, -1):
            total = torch.add(carry, rows[min(t, rows.shape[0] - 1)], out=totals[t])
            torch.mul(decay[t], total, out=carry)
            arriving = to_flux[t].mul_(total).view(-1, width)
            carry.view(-1, width).addmm_(arriving, internal)
        return (
            to_flux.sum(0, keepdim=True) if phi.shape[0] == 1 else to_flux,
            carry,
            to_flux.sum(0),
            to_i.mul_(totals).sum(0),
            before.mul(totals).sum(0).neg_(),
            g.mul_(totals).sum(0),
            to_flux.view(-1, width).T @ before.view(-1, width),
            None,
            None,
        )


class Rates(torch.autograd.Function):
    """g, elementwise, for contiguous tensors of one shape; only the inputs are saved."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor, current: Tensor, kind: SourceKind) -> Tensor:
        ctx.save_for_backward(phi, current)
        ctx.kind = kind
        g = torch.empty_like(phi)
        launch_dendrites("rates", kind, *_flat(phi, current, g), None, None)
        return g

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, by_phi, by_i = rates_and_slopes(ctx.kind, *ctx.saved_tensors)
        return by_phi.mul_(grad), by_i.mul_(grad), None


def rate(kind: SourceKind, phi: Tensor, current: Tensor) -> Tensor:
    """`sources.source_function` computed by a kernel; phi and current broadcast."""
    phi, current = torch.broadcast_tensors(phi, current)
    g: Tensor = Rates.apply(phi.contiguous(), current.contiguous(), kind)
    return g


def rates_and_slopes(
    kind: SourceKind, phi: Tensor, current: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """g, dg/dphi and dg/di, elementwise, for contiguous tensors of one shape; no gradient."""
    g, by_phi, by_i = torch.empty_like(phi), torch.empty_like(phi), torch.empty_like(phi)
    launch_dendrites("rates", kind, *_flat(phi, current, g, by_phi, by_i))
    return g, by_phi, by_i


def previous(s0: Tensor, states: Tensor) -> Tensor:
    """States [T, M] before each step."""
    return torch.cat((s0[None], states[:-1]))


def _flat(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.view(-1) for t in tensors)


def _newton(
    kind: SourceKind,
    phi: Tensor,
    offset: Tensor,
    bias: Tensor,
    leak: Tensor,
    drive: Tensor,
    s0: Tensor,
    steps: int,
) -> Tensor | None:
    """Solve for all states at once by Newton's method; None, with a warning, if it diverges.

    The residuals of all steps are linearised about the last trajectory. The Jacobian couples a
    state only with the one before it, so the correction is a linear scan (Lim et al. 2024, DEER).
    Its entries are clamped to [0, 1]: at the onset of a source function Euler's step overshoots,
    and the unclamped iteration would diverge.
    """
    flux = (phi + offset).expand(steps, -1).contiguous()
    states = _equilibrium(kind, flux, bias, leak, drive)
    change = torch.zeros(())
    for _ in range(ITERATIONS):
        before = previous(s0, states)
        g, _, by_i = rates_and_slopes(kind, flux, bias - before)
        residual = (before - states).add_(drive * g - leak * before)
        correction = torch.empty_like(states)
        jacobian = (1 - leak - drive * by_i).clamp_(0.0, 1.0)
        launch("scan_forward", jacobian, residual, torch.zeros_like(s0), correction)
        states += correction
        # NaN compares as false, so divergence to NaN also ends in the warning below.
        change = correction.abs().max() / states.abs().max().clamp(min=1.0)
        if change <= TOLERANCE:
            return states
    warnings.warn(
        f"solver newton did not converge in {ITERATIONS} iterations (source {kind}, {steps} steps, "
        f"last change {float(change):.1e}); this sequence was integrated by forward Euler. Use "
        "solver euler, or a smaller dt.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _equilibrium(
    kind: SourceKind, flux: Tensor, bias: Tensor, leak: Tensor, drive: Tensor
) -> Tensor:
    """Starting point of Newton's method: the equilibrium state [T, M] of each flux, by bisection.

    It lies between 0, where the source exceeds the leak, and `bias`, where the source is 0. Its
    error is at most bias / 2^HALVINGS.
    """
    low, high = torch.zeros_like(flux), bias.expand_as(flux)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rises = drive * rate(kind, flux, bias - middle) > leak * middle
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    return (low + high) / 2
