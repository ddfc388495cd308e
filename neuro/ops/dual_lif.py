"""Dual-timescale LIF neurons (LT-Gate, arXiv 2510.12843) over a whole sequence, in one kernel.

Each neuron has a fast and a slow compartment, each with its own input current; k in {fast, slow}:

    v_k[t] = decay_k * v_k[t-1] + i_k[t]

Merge "gate" (the paper's): one spike of the gated membrane potential resets both compartments.

    v[t] = gamma * v_fast[t] + (1 - gamma) * v_slow[t]
    s[t] = 1 if v[t] >= theta else 0;   v_k[t] -= theta * s[t],  or  v_k[t] = 0 where s[t] = 1

Merge "or": each compartment spikes and resets separately; the neuron spikes if either does.

    s_k[t] = 1 if v_k[t] >= theta else 0;   v_k[t] -= theta * s_k[t],  or  0 where s_k[t] = 1
    s[t] = 1 - (1 - s_fast[t]) * (1 - s_slow[t])

The s_k are called branch spikes. Under "gate" they are defined by v_k >= theta before the reset and
reset nothing. Branch spikes, rates and recorded membranes are for observation: no gradient.

Gradients are those of `lif`: the surrogate through the spike, the reset a constant. Under "or" the
product rule gives ds/ds_fast = 1 - s_slow. Only the inputs are saved; backward integrates them
again.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.kernels.launch import WORD, launch
from neuro.ops.lif import Reset, check_neuron, reset_membrane
from neuro.ops.plain import has_plain_form
from neuro.ops.sequence import (
    channel_row,
    check_choice,
    check_decay,
    check_same,
    compute_dtype,
    empty_gradient,
    gradient_row,
    gradient_rows,
    initial_row,
    to_rows,
)
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate, spike

Merge = Literal["gate", "or"]


class DualLIFState(NamedTuple):
    """Membrane potentials `[B, ...]` after the reset."""

    v_fast: Tensor
    v_slow: Tensor


class DualLIFOutput(NamedTuple):
    """Spikes and state, which have gradients, and traces, which have none."""

    spikes: Tensor  # [T, B, ...], 0 or 1, in the dtype of the currents
    state: DualLIFState  # after the last step
    fast_rate: Tensor  # [B, ...], mean over time of the branch spikes
    slow_rate: Tensor
    rate: Tensor | None  # [B, ...], mean over time of the spikes; None unless recorded
    fast_spikes: Tensor | None  # [T, B, ...], or packed; branch spikes; None unless recorded
    slow_spikes: Tensor | None
    fast_membrane: Tensor | None  # [T, B, ...], before the reset; None unless recorded
    slow_membrane: Tensor | None


@has_plain_form
def dual_lif(
    fast_TBN: Tensor,
    slow_TBN: Tensor,
    state: DualLIFState | None = None,
    *,
    decay_fast: float,
    decay_slow: float,
    threshold: float | Tensor,
    gamma: float | Tensor | None = None,
    merge: Merge = "gate",
    reset: Reset = "subtract",
    surrogate: Surrogate = DEFAULT_SURROGATE,
    record_rate: bool = False,
    record_spikes: bool | Literal["packed"] = False,
    record_membranes: bool = False,
) -> DualLIFOutput:
    """Simulate dual-timescale neurons driven by two currents.

    fast_TBN, slow_TBN: currents [T, B, ...] of one shape; tensors expanded along T (stride 0) are
        not copied. Floats narrower than float32 are computed in float32, which then is the dtype
        of state, rates and membranes.
    state: initial membrane potentials, [B, ...] each; None is zeros.
    decay_fast, decay_slow: factor kept per step, in [0, 1]; exp(-dt_ms / tau_ms).
    threshold: theta > 0, a scalar or one value per channel [C] (dimension 2); without gradient.
    gamma: weight of the fast compartment, in [0, 1], a scalar or one value per channel; required
        by merge "gate" and not allowed for "or". Values inside tensors are not checked, because
        reading them would stall a GPU.
    record_rate, record_spikes, record_membranes: return the rate, the branch spikes, the membrane
        potentials before the reset. "packed": branch spikes as bits, int64 [T, B, N / 64], where
        the kernel can make them: float32 on a CPU, with N, the neurons of a sample, a multiple of
        64. Elsewhere as values.

    Raises ValueError for wrong shapes, dtypes or devices, and values out of range.
    """
    decay_fast, decay_slow = _check(
        fast_TBN, slow_TBN, threshold, gamma, merge, reset, decay_fast, decay_slow
    )
    dtype = compute_dtype(fast_TBN.dtype)
    fast, slow = to_rows(fast_TBN, dtype), to_rows(slow_TBN, dtype)
    v_fast = initial_row("state.v_fast", state.v_fast if state else None, fast_TBN, dtype)
    v_slow = initial_row("state.v_slow", state.v_slow if state else None, fast_TBN, dtype)
    theta = channel_row("threshold", threshold, fast_TBN, dtype)
    gate = None if gamma is None else channel_row("gamma", gamma, fast_TBN, dtype)  # None: "or"

    if record_spikes == "packed":
        on_cpu = fast_TBN.dtype == torch.float32 and fast_TBN.device.type == "cpu"
        record_spikes = "packed" if on_cpu and fast_TBN[0, 0].numel() % WORD == 0 else True
    outputs = _DualLIF.apply(
        fast,
        slow,
        v_fast,
        v_slow,
        gate,
        theta,
        fast_TBN.shape[0],
        (decay_fast, decay_slow),
        reset == "zero",
        surrogate,
        (record_rate, record_spikes, record_membranes),
    )
    spikes, v_fast, v_slow, fast_rate, slow_rate, rate, *traces = outputs
    shape, step_shape = fast_TBN.shape, fast_TBN.shape[1:]
    fast_spikes, slow_spikes, fast_membrane, slow_membrane = (
        None if x is None else x.view((*shape[:2], -1) if x.dtype == torch.int64 else shape)
        for x in traces
    )
    return DualLIFOutput(
        spikes.view(shape).to(fast_TBN.dtype),
        DualLIFState(v_fast.view(step_shape), v_slow.view(step_shape)),
        fast_rate.view(step_shape),
        slow_rate.view(step_shape),
        None if rate is None else rate.view(step_shape),
        _in_dtype(fast_spikes, fast_TBN.dtype),
        _in_dtype(slow_spikes, fast_TBN.dtype),
        fast_membrane,
        slow_membrane,
    )


def _in_dtype(spikes: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Spikes in a dtype; packed ones, and None, as they are."""
    return spikes if spikes is None or spikes.dtype == torch.int64 else spikes.to(dtype)


class _DualLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        fast: Tensor,
        slow: Tensor,
        v0_fast: Tensor,
        v0_slow: Tensor,
        gamma: Tensor | None,
        theta: Tensor,
        steps: int,
        decays: tuple[float, float],
        zero: bool,
        surrogate: Surrogate,
        record: tuple[bool, bool | Literal["packed"], bool],
    ) -> tuple[Tensor | None, ...]:
        record_rate, record_spikes, record_membranes = record

        spikes = fast.new_empty(steps, theta.numel())
        packed = record_spikes == "packed"
        # the kernel packs each step of the branch spikes from the same row
        branch_spikes = _empty_pair(spikes[:1] if packed else spikes, bool(record_spikes))
        words = _empty_pair(fast.new_empty(steps, len(theta) // WORD, dtype=torch.int64), packed)
        membranes = _empty_pair(spikes, record_membranes)
        v_fast, v_slow = v0_fast.clone(), v0_slow.clone()
        rates = torch.zeros_like(theta), torch.zeros_like(theta)
        rate = torch.zeros_like(theta) if record_rate else None
        launch(
            "dual_lif_forward",
            fast,
            slow,
            theta,
            gamma,
            v_fast,
            v_slow,
            spikes,
            rate,
            *rates,
            *branch_spikes,
            *(None if x is None else x.view(torch.uint64) for x in words),
            *membranes,
            *decays,
            zero,
        )
        if packed:
            branch_spikes = words
        for count in (rate, *rates):  # the kernel has counted spikes
            if count is not None:
                count.div_(steps)
        ctx.save_for_backward(fast, slow, theta, gamma, v0_fast, v0_slow)
        ctx.set_materialize_grads(False)  # None, not zeros of size T, for outputs without gradient
        ctx.constants = steps, decays, zero, surrogate
        records = rate, *branch_spikes, *membranes
        ctx.mark_non_differentiable(*rates, *(x for x in records if x is not None))
        return spikes, v_fast, v_slow, *rates, *records

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_spikes: Tensor | None,
        grad_v_fast: Tensor | None,
        grad_v_slow: Tensor | None,
        *_: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        fast, slow, theta, gamma, v0_fast, v0_slow = ctx.saved_tensors
        steps, decays, zero, surrogate = ctx.constants
        carries = gradient_row(grad_v_fast, theta), gradient_row(grad_v_slow, theta)
        grad_gamma = None if gamma is None else torch.zeros_like(gamma)
        grads = empty_gradient(fast), empty_gradient(slow)
        launch(
            "dual_lif_backward",
            fast,
            slow,
            theta,
            gamma,
            v0_fast,
            v0_slow,
            gradient_rows(grad_spikes, theta),
            *carries,
            grad_gamma,
            *grads,
            *decays,
            zero,
            surrogate.code,
            surrogate.slope,
            steps,
        )
        return *grads, *carries, grad_gamma, *(None,) * 6


def _empty_pair(like: Tensor, recorded: bool) -> tuple[Tensor, Tensor] | tuple[None, None]:
    return (torch.empty_like(like), torch.empty_like(like)) if recorded else (None, None)


def _check(
    fast: Tensor,
    slow: Tensor,
    threshold: float | Tensor,
    gamma: float | Tensor | None,
    merge: str,
    reset: str,
    decay_fast: float,
    decay_slow: float,
) -> tuple[float, float]:
    check_neuron(fast, threshold, reset, name="the fast current")
    check_same("the slow current", slow, "the fast current", fast.shape, fast)
    if slow.dtype != fast.dtype:
        raise ValueError(f"the currents differ in dtype: fast {fast.dtype}, slow {slow.dtype}.")
    check_choice("merge", merge, get_args(Merge))
    if (merge == "gate") != (gamma is not None):
        raise ValueError(
            'merge "gate" needs gamma.' if merge == "gate" else 'merge "or" takes no gamma.'
        )
    if isinstance(gamma, (float, int)) and not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1]; got {gamma}.")
    return check_decay("decay_fast", decay_fast), check_decay("decay_slow", decay_slow)


def dual_lif_reference(
    fast_TBN: Tensor,
    slow_TBN: Tensor,
    state: DualLIFState | None = None,
    *,
    decay_fast: float,
    decay_slow: float,
    threshold: float | Tensor,
    gamma: float | Tensor | None = None,
    merge: Merge = "gate",
    reset: Reset = "subtract",
    surrogate: Surrogate = DEFAULT_SURROGATE,
    record_rate: bool = True,
    record_spikes: bool | Literal["packed"] = True,
    record_membranes: bool = True,
) -> DualLIFOutput:
    """`dual_lif` step by step, differentiated by autograd: its definition."""
    dtype = compute_dtype(fast_TBN.dtype)
    shape = fast_TBN.shape[1:]
    theta = channel_row("threshold", threshold, fast_TBN, dtype).view(shape)
    zeros = torch.zeros_like(theta)
    v_fast, v_slow = (zeros, zeros) if state is None else (v.to(dtype) for v in state)
    spikes, branch_spikes, membranes = [], [], []
    for fast, slow in zip(fast_TBN.to(dtype), slow_TBN.to(dtype), strict=True):
        v_fast, v_slow = decay_fast * v_fast + fast, decay_slow * v_slow + slow
        s_fast, s_slow = spike(v_fast - theta, surrogate), spike(v_slow - theta, surrogate)
        membranes.append(torch.stack((v_fast, v_slow)).detach())
        branch_spikes.append(torch.stack((s_fast, s_slow)).detach())
        if gamma is not None:
            gate = channel_row("gamma", gamma, fast_TBN, dtype).view(shape)
            s = spike(gate * v_fast + (1 - gate) * v_slow - theta, surrogate)
            s_fast = s_slow = s
        else:
            s = 1 - (1 - s_fast) * (1 - s_slow)  # a logical or, with a gradient
        spikes.append(s)
        v_fast = reset_membrane(v_fast, s_fast.detach(), theta, reset)
        v_slow = reset_membrane(v_slow, s_slow.detach(), theta, reset)
    fast_spikes, slow_spikes = torch.stack(branch_spikes, dim=1)
    fast_membrane, slow_membrane = torch.stack(membranes, dim=1)
    spikes_TBN = torch.stack(spikes)
    return DualLIFOutput(
        spikes_TBN.to(fast_TBN.dtype),
        DualLIFState(v_fast, v_slow),
        fast_spikes.mean(0),
        slow_spikes.mean(0),
        spikes_TBN.detach().mean(0) if record_rate else None,
        fast_spikes.to(fast_TBN.dtype) if record_spikes else None,
        slow_spikes.to(fast_TBN.dtype) if record_spikes else None,
        fast_membrane if record_membranes else None,
        slow_membrane if record_membranes else None,
    )
