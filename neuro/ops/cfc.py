"""Closed-form continuous-time cells over a whole sequence (Hasani et al. 2022, Nature Machine
Intelligence 4, equation 10).

Shapes: T steps, B batch, H units, K backbone units, G head values.

    z[t]  = activation(drive[t] + W_r h[t-1])                    backbone, one layer
    f1, f2, a, b = W z[t] + bias                                 heads, H values each
    gate  = sigmoid(a times[t] + b)                              times: elapsed since the last input
    h[t]  = (1 - gate) tanh(f1) + gate tanh(f2)                  or tanh(f1) + gate tanh(f2)

`drive` is the part of the backbone's preactivation that comes from the inputs: one matrix product
for all steps, outside. Without a backbone the heads are W h[t-1] + drive[t]. Where all elapsed
times are 1, a and b are one head with the sum of their weights, and G = 3 H instead of 4 H.

Two forms: a kernel for float32 on the CPU (`kernels/cfc.py`), and step by step, the definition.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import launch_samples
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import check_choice, check_same, check_sequence, compute_dtype

#: in the order of the kernel's codes
Activation = Literal["lecun_tanh", "tanh", "relu"]


def activate(kind: Activation, x: Tensor) -> Tensor:
    """Activation of a backbone; lecun_tanh has the constants of the package ncps."""
    match kind:
        case "lecun_tanh":
            return 1.7159 * torch.tanh(0.666 * x)
        case "tanh":
            return torch.tanh(x)
        case "relu":
            return F.relu(x)


@has_plain_form
def cfc(
    drive_TBK: Tensor,
    h0_BH: Tensor,
    recurrent_KH: Tensor | None,
    heads_GK: Tensor,
    bias_G: Tensor | None,
    times_TBH: Tensor | None = None,
    *,
    gated: bool = True,
    activation: Activation = "lecun_tanh",
) -> Tensor:
    """States after all steps, `[T, B, H]`, in float32 or float64; gradients reach all tensors.

    recurrent_KH: W_r. heads_GK: W, G = 3 H, or 4 H with times; bias_G: its biases.
    Without a backbone (recurrent_KH and bias_G None): drive `[T, B, G]`, heads `[G, H]`.
    times_TBH: elapsed time of each unit before each step; None is 1 everywhere.
    gated: False adds the two terms ("no gate"). Raises ValueError for what does not match.
    """
    check_sequence("drive", drive_TBK)
    check_choice("activation", activation, get_args(Activation))
    (steps, batch, width), units = drive_TBK.shape, h0_BH.shape[-1]
    values = units * (3 if times_TBH is None else 4)
    backbone = recurrent_KH is not None
    shapes: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("h0", h0_BH, (batch, units)),
        ("recurrent", recurrent_KH, (width, units)),
        ("heads", heads_GK, (values, width if backbone else units)),
        ("bias", bias_G, (values,)),
        ("times", times_TBH, (steps, batch, units)),
    ]
    if not backbone:
        shapes.append(("drive", drive_TBK, (steps, batch, values)))
    for name, tensor, shape in shapes:
        if tensor is not None:
            check_same(name, tensor, "the other arguments", torch.Size(shape), drive_TBK)
    dtype = compute_dtype(drive_TBK.dtype)
    tensors = (drive_TBK, h0_BH, recurrent_KH, heads_GK, bias_G, times_TBH)
    arguments = [x if x is None else x.to(dtype) for x in tensors]
    if dtype == torch.float32 and drive_TBK.device.type == "cpu":
        h: Tensor = _CfC.apply(*arguments, gated, get_args(Activation).index(activation))
        return h
    return cfc_reference(*arguments, gated=gated, activation=activation)  # type: ignore[arg-type]


class _CfC(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        h0: Tensor,
        recurrent: Tensor | None,
        heads: Tensor,
        bias: Tensor | None,
        times: Tensor | None,
        gated: bool,
        kind: int,
    ) -> Tensor:
        # Kernels always take tensors: each combination with None would be compiled separately.
        drive, h0 = drive.contiguous(), h0.contiguous()
        unused = drive.new_empty(1, 1, 1)
        backbone = recurrent is not None
        elapsed = unused if times is None else times.contiguous()
        steps, batch = drive.shape[:2]
        h = drive.new_empty(steps, *h0.shape)
        hidden = torch.empty_like(drive) if backbone else unused
        values = drive.new_empty(steps, batch, len(heads))
        launch_samples(
            *("cfc", "cfc_forward"),
            *(batch, values.numel()),
            *(drive, h0, unused[0] if recurrent is None else recurrent.T.contiguous()),
            *(heads.T.contiguous(), unused[0, 0] if bias is None else bias.contiguous()),
            *(elapsed, hidden, values, h, gated, backbone, kind),
        )
        ctx.save_for_backward(h0, recurrent, heads, elapsed, hidden, values, h)
        ctx.constants = gated, backbone, times is not None, kind
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
        h0, recurrent, heads, elapsed, hidden, values, h = ctx.saved_tensors
        gated, backbone, timed, kind = ctx.constants
        carry, grad_values = torch.zeros_like(h0), torch.empty_like(values)
        grad_drive, grad_times = torch.empty_like(hidden), torch.empty_like(elapsed)
        launch_samples(
            *("cfc", "cfc_backward"),
            *(len(h0), values.numel()),
            *(hidden[0] if recurrent is None else recurrent.contiguous(), heads.contiguous()),
            *(elapsed, hidden, values, grad_h.contiguous(), carry),
            *(grad_drive, grad_values, grad_times, gated, backbone, kind),
        )
        before = torch.cat((h0[None], h[:-1])).flatten(0, 1)
        rows = grad_values.flatten(0, 1)
        found_times = grad_times if timed else None
        if not backbone:
            return grad_values, carry, None, rows.T @ before, None, found_times, None, None
        return (
            grad_drive,
            carry,
            grad_drive.flatten(0, 1).T @ before,
            rows.T @ hidden.flatten(0, 1),
            rows.sum(0),
            found_times,
            None,
            None,
        )


def cfc_reference(
    drive_TBK: Tensor,
    h0_BH: Tensor,
    recurrent_KH: Tensor | None,
    heads_GK: Tensor,
    bias_G: Tensor | None,
    times_TBH: Tensor | None = None,
    *,
    gated: bool = True,
    activation: Activation = "lecun_tanh",
) -> Tensor:
    """`cfc` step by step, differentiated by autograd: its definition."""
    h, states = h0_BH, []
    for t, drive in enumerate(drive_TBK):
        if recurrent_KH is None:
            values = drive + F.linear(h, heads_GK)
        else:
            z = activate(activation, drive + F.linear(h, recurrent_KH))
            values = F.linear(z, heads_GK, bias_G)
        f1, f2, *time = values.split(h.shape[1], 1)
        gate = torch.sigmoid(time[0] if times_TBH is None else time[0] * times_TBH[t] + time[1])
        f1, f2 = f1.tanh(), f2.tanh()
        h = f1 + gate * (f2 - f1) if gated else f1 + gate * f2
        states.append(h)
    return torch.stack(states)
