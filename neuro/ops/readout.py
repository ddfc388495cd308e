"""Linear readout of a whole sequence, with a fast backward pass under pooling over time.

    values[t] = x[t] @ weight^T

A mean or sum over time sends the same gradient g to every step. Then

    dL/dx[t] = g @ weight,   dL/dweight = g^T @ sum_t x[t]

take one product of the size of a step each. dL/dx is returned as one expanded step, which the
kernels do not copy. Autograd by itself would compute both for all steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.events import Events, event_currents
from neuro.ops.plain import are_plain
from neuro.ops.sequence import is_constant


def read_out(x_TBN: Tensor, weight_KN: Tensor, events: Events | None = None) -> Tensor:
    """Values [T, B, K] of inputs [T, B, N] and weights [K, N].

    events: the inputs, packed, if they are spikes.
    """
    # autocast selects the precision of F.linear
    if are_plain() or torch.is_autocast_enabled(x_TBN.device.type):
        return F.linear(x_TBN, weight_KN)
    if events is not None:
        (values,) = event_currents(events, weight_KN.T[None, :, None])
        return values
    dense_values: Tensor = _ReadOut.apply(x_TBN, weight_KN)
    return dense_values


class _ReadOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight = ctx.needs_input_grad
        if is_constant(grad):
            step = grad[0]
            grad_x = (step @ weight).expand_as(x) if to_x else None
            grad_weight = step.T @ x.sum(0) if to_weight else None
        else:
            grad_x = grad @ weight if to_x else None
            grad_weight = grad.flatten(0, 1).T @ x.flatten(0, 1) if to_weight else None
        return grad_x, grad_weight
