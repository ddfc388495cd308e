"""Loihi 2's integer neurons for training: integers forward, a surrogate gradient backward.

Forward equals `integer_lif` and `integer_dual_lif` to the last bit, so a network trained this way
loses no accuracy on the chip. Backward is that of `lif` and `dual_lif`, evaluated at the membrane
potentials that the integers stand for, and straight-through the rounding (Bengio et al. 2013). With
x the synaptic sum in integers, `unit` the real value of one, v the membrane potential before the
reset in real units and h the surrogate derivative:

    dL/dv[t] = h(v[t] - theta) dL/ds[t] + decay * r[t] * dL/dv[t+1],   dL/dx[t] = unit * dL/dv[t]

with r = 1, or r = 1 - s[t] for reset "zero". The membrane potentials are saved for it, four bytes
per neuron, compartment and step. The state has no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuro.ops.dual_lif import DualLIFState, Merge
from neuro.ops.fixed_point import ACTIVATION_SHIFT, DECAY_UNITY, GAMMA_UNITY, gamma_register
from neuro.ops.integer_lif import (
    IntegerDualLIFState,
    IntegerLIFState,
    integer_dual_lif,
    integer_lif,
    merge_membranes,
)
from neuro.ops.lif import Reset
from neuro.ops.scan import linear_scan
from neuro.ops.surrogate import Surrogate, surrogate_derivative

#: integers of the membrane potential per integer of the synaptic sum
_SHIFT = 1 << ACTIVATION_SHIFT


class FixedPointLIFOutput(NamedTuple):
    """Spikes, which have a gradient, and membrane potentials in real units, which have none."""

    spikes: Tensor  # [T, B, ...], 0 or 1, in the dtype of the sums
    v: Tensor  # [B, ...], after the reset of the last step
    membrane: Tensor  # [T, B, ...], before the reset


class FixedPointDualLIFOutput(NamedTuple):
    """Spikes, which have a gradient, and state and traces as in `DualLIFOutput`, without one."""

    spikes: Tensor
    state: DualLIFState
    fast_rate: Tensor
    slow_rate: Tensor
    fast_spikes: Tensor
    slow_spikes: Tensor
    fast_membrane: Tensor
    slow_membrane: Tensor


def fixed_point_lif(
    sums_TBN: Tensor,
    v0_BN: Tensor | None = None,
    *,
    unit: Tensor,
    dv: int,
    vth: int,
    reset: Reset,
    surrogate: Surrogate,
) -> FixedPointLIFOutput:
    """LIF neurons in integer arithmetic, with a surrogate gradient.

    sums_TBN: synaptic sums [T, B, ...], integers in a float dtype, so that they have a gradient.
    v0_BN: [B, ...], initial membrane potential in real units; None is zeros.
    unit: the real value of one integer of the sums, a scalar.
    dv, vth: decay and threshold registers.
    """
    state = None
    if v0_BN is not None:
        # Rounding recovers the integers that the real values of an earlier call stand for. With
        # du = 4095 the current has no memory, so its state does not matter.
        v0 = _membrane_integers(v0_BN, unit)
        state = IntegerLIFState(torch.zeros_like(v0), v0)
    spikes, v, membrane = _LIF.apply(sums_TBN, state, unit, dv, vth, reset, surrogate)
    dtype = spikes.dtype
    return FixedPointLIFOutput(spikes, _real(v, unit, dtype), _real(membrane, unit, dtype))


def fixed_point_dual_lif(
    fast_TBN: Tensor,
    slow_TBN: Tensor,
    state: DualLIFState | None = None,
    *,
    unit: Tensor,
    dv_fast: int,
    dv_slow: int,
    vth: int,
    gamma: Tensor | None,
    merge: Merge,
    reset: Reset,
    surrogate: Surrogate,
) -> FixedPointDualLIFOutput:
    """Dual-timescale neurons in integer arithmetic, with a surrogate gradient.

    gamma: one value per channel [C] (dimension 2) in [0, 1], rounded to 1/256; for merge "gate".
    The other arguments are those of `fixed_point_lif`.
    """
    start = None
    if state is not None:
        start = IntegerDualLIFState(*(_membrane_integers(v, unit) for v in state))
    spikes, *states, fast, slow = _DualLIF.apply(
        fast_TBN, slow_TBN, gamma, start, unit, (dv_fast, dv_slow), vth, merge, reset, surrogate
    )
    fired = [(v > vth << ACTIVATION_SHIFT).to(spikes.dtype) for v in (fast, slow)]
    rates = [branch.mean(0) for branch in fired]
    membranes = [_real(v, unit, spikes.dtype) for v in (fast, slow)]
    state = DualLIFState(*(_real(v, unit, spikes.dtype) for v in states))
    return FixedPointDualLIFOutput(spikes, state, *rates, *fired, *membranes)


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sums: Tensor,
        state: IntegerLIFState | None,
        unit: Tensor,
        dv: int,
        vth: int,
        reset: Reset,
        surrogate: Surrogate,
    ) -> tuple[Tensor | None, ...]:
        out = integer_lif(sums, state, dv=dv, vth=vth, reset=reset, record_membrane=True)
        assert out.membrane is not None
        spikes = out.spikes.to(sums.dtype)
        ctx.save_for_backward(out.membrane, spikes, unit)
        ctx.constants = dv, vth, reset, surrogate
        ctx.mark_non_differentiable(out.state.v, out.membrane)
        return spikes, out.state.v, out.membrane

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        membrane, spikes, unit = ctx.saved_tensors
        dv, vth, reset, surrogate = ctx.constants
        direct = grad_spikes * _derivative(membrane, vth, unit, surrogate).to(grad_spikes)
        grad = _back_in_time(direct, dv, spikes if reset == "zero" else None)
        return grad * unit.to(grad), *(None,) * 6


class _DualLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        fast: Tensor,
        slow: Tensor,
        gamma: Tensor | None,
        state: IntegerDualLIFState | None,
        unit: Tensor,
        dv: tuple[int, int],
        vth: int,
        merge: Merge,
        reset: Reset,
        surrogate: Surrogate,
    ) -> tuple[Tensor | None, ...]:
        registers = None if gamma is None else gamma_register(gamma)
        out = integer_dual_lif(
            fast,
            slow,
            state,
            dv_fast=dv[0],
            dv_slow=dv[1],
            vth=vth,
            gamma=registers,
            merge=merge,
            reset=reset,
            record_membranes=True,
        )
        spikes = out.spikes.to(fast.dtype)
        ctx.save_for_backward(out.fast_membrane, out.slow_membrane, spikes, registers, unit)
        ctx.constants = dv, vth, reset, surrogate
        integers = *out.state, out.fast_membrane, out.slow_membrane
        ctx.mark_non_differentiable(*integers)
        return spikes, *integers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        fast, slow, spikes, registers, unit = ctx.saved_tensors
        dv, vth, reset, surrogate = ctx.constants
        grad_gamma = None
        if registers is not None:
            gate = registers.view(-1, *(1,) * (fast.ndim - 3))  # [C, 1, ...] broadcasts over space
            merged = merge_membranes(fast, slow, gate)
            grad = grad_spikes * _derivative(merged, vth, unit, surrogate).to(grad_spikes)
            weight = gate.to(grad) / GAMMA_UNITY
            direct = weight * grad, (1 - weight) * grad
            silencing = (spikes, spikes)
            if ctx.needs_input_grad[2]:
                each = grad * _real(fast - slow, unit, grad.dtype)  # dv/dgamma = v_fast - v_slow
                grad_gamma = each.transpose(0, 2).flatten(1).sum(1)  # summed over all but channels
        else:
            fired = [v > vth << ACTIVATION_SHIFT for v in (fast, slow)]
            h = [_derivative(v, vth, unit, surrogate).to(grad_spikes) for v in (fast, slow)]
            # ds/ds_fast = 1 - s_slow: a branch spike counts where the other branch is silent
            direct = grad_spikes * h[0] * ~fired[1], grad_spikes * h[1] * ~fired[0]
            silencing = (fired[0].to(grad_spikes), fired[1].to(grad_spikes))
        grads = [
            _back_in_time(d, decay, s if reset == "zero" else None) * unit.to(d)
            for d, decay, s in zip(direct, dv, silencing, strict=True)
        ]
        return *grads, grad_gamma, *(None,) * 7


def _derivative(membrane: Tensor, vth: int, unit: Tensor, surrogate: Surrogate) -> Tensor:
    """Surrogate derivative ds/dv; the threshold is the smallest integer that fires."""
    above = membrane - ((vth << ACTIVATION_SHIFT) + 1)  # this integer is theta exactly
    return surrogate_derivative(_real(above, unit, unit.dtype), surrogate)


def _back_in_time(direct: Tensor, dv: int, resets: Tensor | None) -> Tensor:
    """g[t] = direct[t] + decay * r[t] * g[t+1], with r = 1 - `resets`, or 1 if that is None."""
    decay = 1 - dv / DECAY_UNITY
    kept = torch.full_like(direct, decay) if resets is None else decay * (1 - resets)
    # the scan runs forward in time, so the recurrence is reversed
    return linear_scan(kept.flip(0), direct.flip(0)).flip(0)


def _real(integers: Tensor, unit: Tensor, dtype: torch.dtype) -> Tensor:
    """Membrane potentials in real units; `unit` is the real value of one synaptic integer."""
    return (integers * (unit / _SHIFT)).to(dtype)


def _membrane_integers(v: Tensor, unit: Tensor) -> Tensor:
    """Membrane potentials in real units as integers: the inverse of `_real`."""
    return (v.detach().double() * (_SHIFT / unit.double())).round().int()
