"""Leaky integrate-and-fire neurons over a whole sequence, in one fused kernel.

Shapes: T steps, B batch, N = any trailing shape (N features, or C channels times space).

    v[t] = decay * v[t-1] + i[t]
    s[t] = 1 if v[t] >= theta else 0
    v[t] = v[t] - theta * s[t]  (reset "subtract")   or   0 where s[t] = 1  (reset "zero")

with decay = exp(-dt / tau), the exact leak over one step for a current given as an increment of v.

The gradient passes through the spike (surrogate) and along the membrane potential. The reset is
treated as a constant, which keeps the surrogate's error out of the recursion (Zenke & Vogels 2021,
Neural Computation 33(4); Eshraghian et al. 2023, Proc. IEEE 111(9)). For v before the reset and the
surrogate derivative h = ds/dv:

    dL/dv[t] = h[t] * dL/ds[t] + decay * dL/dv[t+1] * (1, or 1 - s[t] for reset "zero")
    dL/di[t] = dL/dv[t]

Only the inputs are saved: backward integrates them again, which takes about as long as storing the
membrane potential. A current that is constant in time is saved as a single step.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import launch
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import (
    channel_row,
    check_choice,
    check_decay,
    check_sequence,
    compute_dtype,
    empty_gradient,
    gradient_row,
    gradient_rows,
    initial_row,
    to_rows,
)
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate, spike

Reset = Literal["subtract", "zero"]


class LIFOutput(NamedTuple):
    """Spikes, last membrane potential, and recorded traces."""

    spikes_TBN: Tensor  # 0 or 1, in the dtype of the current
    v_BN: Tensor  # after the reset of the last step: the initial state of a continuation
    membrane_TBN: Tensor | None  # v before the reset; None unless recorded
    rate_BN: Tensor | None  # mean over time of the spikes, without gradient; None unless recorded


@has_plain_form
def lif(
    current_TBN: Tensor,
    v0_BN: Tensor | None = None,
    *,
    decay: float,
    threshold: float | Tensor,
    reset: Reset = "subtract",
    surrogate: Surrogate = DEFAULT_SURROGATE,
    record_membrane: bool = False,
    record_rate: bool = False,
) -> LIFOutput:
    """Simulate LIF neurons driven by `current_TBN`.

    current_TBN: [T, B, ...]. Floats narrower than float32 are computed in float32, which then is
        the dtype of state and membrane. A tensor expanded along T (stride 0) is not copied.
    v0_BN: [B, ...], initial membrane potential; None is zeros.
    decay: factor kept per step, in [0, 1]; exp(-dt_ms / tau_ms).
    threshold: theta > 0, a scalar or one value per channel [C] (dimension 2); without gradient.
        Values inside a tensor are not checked, because reading them would stall a GPU.
    record_membrane, record_rate: return the membrane potential before the reset, the mean rate.

    Raises ValueError for wrong shapes or devices, and values out of range.
    """
    dtype = compute_dtype(current_TBN.dtype)
    check_neuron(current_TBN, threshold, reset, name="current")
    decay = check_decay("decay", decay)
    current = to_rows(current_TBN, dtype)
    v0 = initial_row("v0", v0_BN, current_TBN, dtype)
    theta = channel_row("threshold", threshold, current_TBN, dtype)

    spikes, v, membrane, rate = _LIF.apply(
        current,
        v0,
        theta,
        current_TBN.shape[0],
        decay,
        reset == "zero",
        surrogate,
        (record_membrane, record_rate),
    )
    shape = current_TBN.shape
    return LIFOutput(
        spikes.view(shape).to(current_TBN.dtype),
        v.view(shape[1:]),
        membrane.view(shape) if record_membrane else None,
        rate.view(shape[1:]) if record_rate else None,
    )


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        v0: Tensor,
        theta: Tensor,
        steps: int,
        decay: float,
        zero: bool,
        surrogate: Surrogate,
        record: tuple[bool, bool],
    ) -> tuple[Tensor | None, ...]:
        record_membrane, record_rate = record
        spikes = current.new_empty(steps, v0.numel())
        membrane = torch.empty_like(spikes) if record_membrane else None
        rate = torch.zeros_like(v0) if record_rate else None
        v = v0.clone()
        launch("lif_forward", current, theta, v, spikes, rate, membrane, decay, zero)
        if rate is not None:  # the kernel has counted spikes
            ctx.mark_non_differentiable(rate.div_(steps))
        ctx.save_for_backward(current, theta, v0)
        ctx.set_materialize_grads(False)  # None, not zeros of size T, for outputs without gradient
        ctx.constants = steps, decay, zero, surrogate
        return spikes, v, membrane, rate

    @staticmethod
    @once_differentiable  # the kernel builds no graph: second derivatives must be an error
    def backward(
        ctx: Any,
        grad_spikes: Tensor | None,
        grad_v: Tensor | None,
        grad_membrane: Tensor | None,
        _: None,
    ) -> tuple[Tensor | None, ...]:
        current, theta, v0 = ctx.saved_tensors
        steps, decay, zero, surrogate = ctx.constants
        carry = gradient_row(grad_v, theta)
        grad_current = empty_gradient(current)
        launch(
            "lif_backward",
            current,
            theta,
            v0,
            gradient_rows(grad_spikes, theta),
            None if grad_membrane is None else gradient_rows(grad_membrane, theta),
            carry,
            grad_current,
            decay,
            zero,
            surrogate.code,
            surrogate.slope,
            steps,
        )
        return grad_current, carry, *(None,) * 6


def check_neuron(current: Tensor, threshold: float | Tensor, reset: str, *, name: str) -> None:
    """Check the arguments that `lif` and `dual_lif` share. ValueError if one is not valid."""
    check_sequence(name, current)
    check_choice("reset", reset, get_args(Reset))
    if isinstance(threshold, Tensor):
        if torch.is_grad_enabled() and threshold.requires_grad:
            raise ValueError("threshold has no gradient here; detach it.")
    elif not threshold > 0:
        raise ValueError(f"threshold must be above 0; got {threshold}.")


def lif_reference(
    current_TBN: Tensor,
    v0_BN: Tensor | None = None,
    *,
    decay: float,
    threshold: float | Tensor,
    reset: Reset = "subtract",
    surrogate: Surrogate = DEFAULT_SURROGATE,
    record_membrane: bool = False,
    record_rate: bool = False,
) -> LIFOutput:
    """`lif` step by step, differentiated by autograd: its definition."""
    dtype = compute_dtype(current_TBN.dtype)
    theta = channel_row("threshold", threshold, current_TBN, dtype).view(current_TBN.shape[1:])
    v = torch.zeros_like(theta) if v0_BN is None else v0_BN.to(dtype)
    spikes, membrane = [], []
    for current in current_TBN.to(dtype):
        v = decay * v + current
        s = spike(v - theta, surrogate)
        spikes.append(s)
        membrane.append(v)
        v = reset_membrane(v, s.detach(), theta, reset)
    spikes_TBN = torch.stack(spikes)
    return LIFOutput(
        spikes_TBN.to(current_TBN.dtype),
        v,
        torch.stack(membrane) if record_membrane else None,
        spikes_TBN.detach().mean(0) if record_rate else None,
    )


def reset_membrane(v: Tensor, spikes: Tensor, threshold: Tensor, reset: Reset) -> Tensor:
    """Membrane potential after the reset at one step."""
    return v - threshold * spikes if reset == "subtract" else v.masked_fill(spikes > 0, 0.0)
