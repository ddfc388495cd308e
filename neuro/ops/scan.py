"""Linear recurrences over a whole sequence, in one fused kernel.

    x[t] = a[t] * x[t-1] + b[t]

elementwise, for shapes [T, B, ...]. `exponential_trace` is the case of a constant decay: the
presynaptic trace of local learning rules. Backward runs the same recurrence in reverse:

    g[t] = dL/dx[t] + a[t+1] * g[t+1],   dL/db[t] = g[t],   dL/da[t] = g[t] * x[t-1]

so only `a` is saved, and x if `a` needs a gradient. A scan parallel in time (Blelloch 1990) does
more work and pays only where there are more processors than features, which is not the case here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import launch
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import (
    check_decay,
    check_same,
    check_sequence,
    compute_dtype,
    empty_gradient,
    gradient_rows,
    initial_row,
    to_rows,
)


@has_plain_form
def linear_scan(a_TBN: Tensor, b_TBN: Tensor, x0_BN: Tensor | None = None) -> Tensor:
    """x[t] = a[t] x[t-1] + b[t] for all t: [T, B, ...], in the dtype of b.

    a_TBN, b_TBN: [T, B, ...], of the same shape; tensors expanded along T are not copied.
    x0_BN: [B, ...], the state before the first step; None is zeros.
    Raises ValueError for shapes or devices that do not match.
    """
    check_sequence("b", b_TBN)
    check_same("a", a_TBN, "b", b_TBN.shape, b_TBN)
    dtype = compute_dtype(b_TBN.dtype)
    a, b = to_rows(a_TBN, dtype), to_rows(b_TBN, dtype)
    x0 = initial_row("x0", x0_BN, b_TBN, dtype)
    x: Tensor = _Scan.apply(a, b, x0, b_TBN.shape[0])
    return x.view(b_TBN.shape).to(b_TBN.dtype)


@has_plain_form
def exponential_trace(input_TBN: Tensor, x0_BN: Tensor | None = None, *, decay: float) -> Tensor:
    """x[t] = decay * x[t-1] + input[t]: [T, B, ...], in the dtype of the input.

    decay: factor kept per step, in [0, 1]; exp(-dt_ms / tau_ms).
    """
    check_sequence("input", input_TBN)
    factor = input_TBN.new_full((1,) * input_TBN.ndim, check_decay("decay", decay))
    return linear_scan(factor.expand(input_TBN.shape), input_TBN, x0_BN)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x0: Tensor, steps: int) -> Tensor:
        x = b.new_empty(steps, x0.numel())
        launch("scan_forward", a, b, x0, x)
        ctx.save_for_backward(a, x0, x if ctx.needs_input_grad[0] else None)
        ctx.steps, ctx.steps_of_b = steps, b.shape[0]
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
        a, x0, x = ctx.saved_tensors
        carry = torch.zeros_like(x0)
        grad_a = None if x is None else empty_gradient(a)
        grad_b = empty_gradient(x0.expand(ctx.steps_of_b, -1))
        rows = gradient_rows(grad_x, x0)
        launch("scan_backward", a, x, x0, rows, carry, grad_a, grad_b, ctx.steps)
        return grad_a, grad_b, carry, None


def linear_scan_reference(a_TBN: Tensor, b_TBN: Tensor, x0_BN: Tensor | None = None) -> Tensor:
    """`linear_scan` step by step, differentiated by autograd: its definition."""
    dtype = compute_dtype(b_TBN.dtype)
    x = torch.zeros_like(b_TBN[0], dtype=dtype) if x0_BN is None else x0_BN.to(dtype)
    trace = []
    for a, b in zip(a_TBN.to(dtype), b_TBN.to(dtype), strict=True):
        x = a * x + b
        trace.append(x)
    return torch.stack(trace).to(b_TBN.dtype)


def exponential_trace_reference(
    input_TBN: Tensor, x0_BN: Tensor | None = None, *, decay: float
) -> Tensor:
    """`exponential_trace` step by step, differentiated by autograd: its definition."""
    return linear_scan_reference(torch.full_like(input_TBN, decay), input_TBN, x0_BN)
