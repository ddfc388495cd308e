"""Selective state-space recurrence over a whole sequence (Gu and Dao 2023, arXiv 2312.00752).

Shapes: T steps, B batch, D features, N states per feature.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]        h: [B, D, N]
    y[t] = C[t] . h[t] + D u[t]                         sum over the N states

The step dt, the input vector B and the output vector C depend on the input (selectivity). A is
discretised exactly (zero-order hold), B by Euler's rule, as in the authors' code.

Three forms: a kernel for float32 on the CPU (`kernels/selective_scan.py`), which keeps no state of
size T x N; for other dtypes and devices, the linear scan over all states; and step by step, the
definition.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import launch_selective_scan
from neuro.ops.plain import has_plain_form
from neuro.ops.scan import linear_scan
from neuro.ops.sequence import check_same, check_sequence, compute_dtype

# of kernels/selective_scan.py, which is not imported here because it imports Numba
BLOCK, SPAN = 64, 16


class SelectiveScanOutput(NamedTuple):
    """Outputs in the dtype of u, and the state after the last step (float32 or float64)."""

    y_TBD: Tensor
    state_BDN: Tensor


@has_plain_form
def selective_scan(
    u_TBD: Tensor,
    dt_TBD: Tensor,
    A_DN: Tensor,
    B_TBN: Tensor,
    C_TBN: Tensor,
    D_D: Tensor,
    state_BDN: Tensor | None = None,
) -> SelectiveScanOutput:
    """Run the recurrence over T >= 1 steps; gradients reach all inputs and the initial state.

    dt_TBD: step sizes, positive (after softplus). A_DN: negative and finite. D_D: skip weights.
    state_BDN: the state before the first step; None is zeros.
    Floats narrower than float32 are computed in float32. Raises ValueError for shapes or devices
    that do not match.
    """
    check_sequence("u", u_TBD)
    if u_TBD.ndim != 3 or A_DN.ndim != 2:
        raise ValueError(
            "u must have the shape [T, B, D] and A the shape [D, N]; "
            f"got {list(u_TBD.shape)} and {list(A_DN.shape)}."
        )
    (steps, batch, width), states = u_TBD.shape, A_DN.shape[1]
    for name, tensor, shape in (
        ("dt", dt_TBD, (steps, batch, width)),
        ("A", A_DN, (width, states)),
        ("B", B_TBN, (steps, batch, states)),
        ("C", C_TBN, (steps, batch, states)),
        ("D", D_D, (width,)),
        *(() if state_BDN is None else (("state", state_BDN, (batch, width, states)),)),
    ):
        check_same(name, tensor, "u and A", torch.Size(shape), u_TBD)
    dtype = compute_dtype(u_TBD.dtype)
    u, dt, a, b, c, skip = (x.to(dtype) for x in (u_TBD, dt_TBD, A_DN, B_TBN, C_TBN, D_D))
    h0 = u.new_zeros(batch, width, states) if state_BDN is None else state_BDN.to(dtype)
    if dtype == torch.float32 and u.device.type == "cpu":
        rows = (u, dt, a.T, b, c, skip, h0.transpose(1, 2))
        y, h = _SelectiveScan.apply(*(x.contiguous() for x in rows))
        h = h.transpose(1, 2)
    else:
        decay = (dt[..., None] * a).exp()
        trace = linear_scan(decay, (dt * u)[..., None] * b[:, :, None], h0)
        y = (trace @ c[..., None])[..., 0] + skip * u
        h = trace[-1]
    return SelectiveScanOutput(y.to(u_TBD.dtype), h)


class _SelectiveScan(torch.autograd.Function):
    """The kernel, with features last: a `[N, D]`, h0 `[B, N, D]`."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        skip: Tensor,
        h0: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y, h = torch.empty_like(u), h0.clone()
        kept = None
        if any(ctx.needs_input_grad):
            kept = u.new_empty(-(-len(u) // SPAN), *h0.shape)
        launch_selective_scan("scan_forward", u, dt, a, b, c, skip, h, kept, y)
        ctx.save_for_backward(u, dt, a, b, c, skip, kept)
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_h: Tensor) -> tuple[Tensor, ...]:
        u, dt, a, b, c, skip, kept = ctx.saved_tensors
        carry = grad_h.clone(memory_format=torch.contiguous_format)
        blocks = -(-u.shape[2] // BLOCK)
        grad_u, grad_dt = torch.empty_like(u), torch.empty_like(dt)
        grad_a, grad_skip = torch.zeros_like(carry), u.new_zeros(u.shape[1:])
        grad_b, grad_c = b.new_empty(2, blocks, *b.shape)
        launch_selective_scan(
            "scan_backward",
            *(u, dt, a, b, c, skip, kept, grad_y.contiguous(), carry),
            *(grad_u, grad_dt, grad_a, grad_b, grad_c, grad_skip),
        )
        sums = grad_a.sum(0), grad_b.sum(0), grad_c.sum(0), grad_skip.sum(0)
        return grad_u, grad_dt, *sums, carry


def selective_scan_reference(
    u_TBD: Tensor,
    dt_TBD: Tensor,
    A_DN: Tensor,
    B_TBN: Tensor,
    C_TBN: Tensor,
    D_D: Tensor,
    state_BDN: Tensor | None = None,
) -> SelectiveScanOutput:
    """`selective_scan` step by step, differentiated by autograd: its definition."""
    h = u_TBD.new_zeros(*u_TBD.shape[1:], A_DN.shape[1]) if state_BDN is None else state_BDN
    outputs = []
    for u, dt, b, c in zip(u_TBD, dt_TBD, B_TBN, C_TBN, strict=True):
        h = (dt[..., None] * A_DN).exp() * h + (dt * u)[..., None] * b[:, None]
        outputs.append((h * c[:, None]).sum(-1) + D_D * u)
    return SelectiveScanOutput(torch.stack(outputs), h)
