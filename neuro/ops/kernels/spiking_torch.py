"""Fused kernels as torch loops, for devices other than the CPU.

Names, arguments, layout and results are those of `spiking`. They run without autograd and in place,
so that a step allocates little memory; operations and their order are those of the step-by-step
references. Backward kernels integrate the sequence again first, as those of `spiking` do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.ops.surrogate import KINDS, Surrogate, surrogate_derivative


def _at(rows: Tensor, t: int) -> Tensor:
    """Row t, or the only row of a constant sequence."""
    return rows[min(t, rows.shape[0] - 1)]


def _reset(v: Tensor, theta: Tensor, spikes: Tensor, zero: bool) -> None:
    if zero:
        v.masked_fill_(spikes > 0, 0.0)
    else:
        v.sub_(theta * spikes)


def _emit(carry: Tensor, decay: float, grad: Tensor, t: int) -> None:
    """Write (or add) the gradient of the current at step t, and scale it by the leak for t - 1."""
    if grad.shape[0] == 1:
        grad[0] += carry
    else:
        grad[t] = carry
    carry.mul_(decay)


def lif_forward(
    current: Tensor,
    theta: Tensor,
    v: Tensor,
    spikes: Tensor,
    count: Tensor | None,
    membrane: Tensor | None,
    decay: float,
    zero: bool,
) -> None:
    for t, s in enumerate(spikes):
        v.mul_(decay).add_(_at(current, t))
        if membrane is not None:
            membrane[t] = v
        s.copy_(v >= theta)
        if count is not None:
            count.add_(s)
        _reset(v, theta, s, zero)


def lif_backward(
    current: Tensor,
    theta: Tensor,
    v0: Tensor,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    carry: Tensor,
    grad_current: Tensor,
    decay: float,
    zero: bool,
    kind: int,
    slope: float,
    steps: int,
) -> None:
    surrogate = Surrogate(KINDS[kind], slope)
    spikes, membrane = v0.new_empty(2, steps, v0.numel())
    # recorded are membrane potentials before the reset, at which the surrogate is evaluated
    lif_forward(current, theta, v0.clone(), spikes, None, membrane, decay, zero)
    for t in range(steps - 1, -1, -1):
        x = membrane[t] - theta
        if zero:  # a reset to zero stops the gradient from later steps
            carry.masked_fill_(x >= 0, 0.0)
        carry.addcmul_(surrogate_derivative(x, surrogate), _at(grad_spikes, t))
        if grad_membrane is not None:
            carry.add_(_at(grad_membrane, t))
        _emit(carry, decay, grad_current, t)


def dual_lif_forward(
    fast: Tensor,
    slow: Tensor,
    theta: Tensor,
    gamma: Tensor | None,
    v_fast: Tensor,
    v_slow: Tensor,
    spikes: Tensor,
    count: Tensor | None,
    count_fast: Tensor,
    count_slow: Tensor,
    spikes_fast: Tensor | None,
    spikes_slow: Tensor | None,
    words_fast: None,
    words_slow: None,
    membrane_fast: Tensor | None,
    membrane_slow: Tensor | None,
    decay_fast: float,
    decay_slow: float,
    zero: bool,
) -> None:
    for t, s in enumerate(spikes):
        v_fast.mul_(decay_fast).add_(_at(fast, t))
        v_slow.mul_(decay_slow).add_(_at(slow, t))
        if membrane_fast is not None and membrane_slow is not None:
            membrane_fast[t], membrane_slow[t] = v_fast, v_slow
        s_fast, s_slow = v_fast >= theta, v_slow >= theta
        count_fast.add_(s_fast)
        count_slow.add_(s_slow)
        if spikes_fast is not None and spikes_slow is not None:
            spikes_fast[t], spikes_slow[t] = s_fast, s_slow
        if gamma is not None:
            s.copy_(gamma * v_fast + (1 - gamma) * v_slow >= theta)
            _reset(v_fast, theta, s, zero)
            _reset(v_slow, theta, s, zero)
        else:
            s.copy_(s_fast | s_slow)
            _reset(v_fast, theta, s_fast, zero)
            _reset(v_slow, theta, s_slow, zero)
        if count is not None:
            count.add_(s)


def dual_lif_backward(
    fast: Tensor,
    slow: Tensor,
    theta: Tensor,
    gamma: Tensor | None,
    v0_fast: Tensor,
    v0_slow: Tensor,
    grad_spikes: Tensor,
    carry_fast: Tensor,
    carry_slow: Tensor,
    grad_gamma: Tensor | None,
    grad_fast: Tensor,
    grad_slow: Tensor,
    decay_fast: float,
    decay_slow: float,
    zero: bool,
    kind: int,
    slope: float,
    steps: int,
) -> None:
    surrogate = Surrogate(KINDS[kind], slope)
    spikes, membrane_fast, membrane_slow = theta.new_empty(3, steps, theta.numel())
    count_fast, count_slow = theta.new_zeros(2, theta.numel())
    dual_lif_forward(
        fast,
        slow,
        theta,
        gamma,
        v0_fast.clone(),
        v0_slow.clone(),
        spikes,
        None,
        count_fast,
        count_slow,
        *(None,) * 4,
        membrane_fast,
        membrane_slow,
        decay_fast,
        decay_slow,
        zero,
    )
    for t in range(steps - 1, -1, -1):
        v_fast, v_slow, grad = membrane_fast[t], membrane_slow[t], _at(grad_spikes, t)
        if gamma is not None and grad_gamma is not None:
            x = gamma * v_fast + (1 - gamma) * v_slow - theta
            x_fast = x_slow = x
            grad_merged = grad * surrogate_derivative(x, surrogate)
            grad_gamma.addcmul_(grad_merged, v_fast - v_slow)
            direct_fast, direct_slow = gamma * grad_merged, (1 - gamma) * grad_merged
        else:
            x_fast, x_slow = v_fast - theta, v_slow - theta
            # ds/ds_fast = 1 - s_slow: a branch spike counts where the other branch is silent
            direct_fast = (grad * surrogate_derivative(x_fast, surrogate)).mul_(x_slow < 0)
            direct_slow = (grad * surrogate_derivative(x_slow, surrogate)).mul_(x_fast < 0)
        if zero:
            carry_fast.masked_fill_(x_fast >= 0, 0.0)
            carry_slow.masked_fill_(x_slow >= 0, 0.0)
        _emit(carry_fast.add_(direct_fast), decay_fast, grad_fast, t)
        _emit(carry_slow.add_(direct_slow), decay_slow, grad_slow, t)


def scan_forward(a: Tensor, b: Tensor, x0: Tensor, x: Tensor) -> None:
    before = x0
    for t, now in enumerate(x):
        torch.mul(_at(a, t), before, out=now).add_(_at(b, t))
        before = now


def scan_backward(
    a: Tensor,
    x: Tensor | None,
    x0: Tensor,
    grad_x: Tensor,
    carry: Tensor,
    grad_a: Tensor | None,
    grad_b: Tensor,
    steps: int,
) -> None:
    for t in range(steps - 1, -1, -1):
        carry.add_(_at(grad_x, t))
        if grad_a is not None and x is not None:
            before = x[t - 1] if t else x0
            if grad_a.shape[0] == 1:
                grad_a[0].addcmul_(carry, before)
            else:
                torch.mul(carry, before, out=grad_a[t])
        if grad_b.shape[0] == 1:
            grad_b[0] += carry
        else:
            grad_b[t] = carry
        carry.mul_(_at(a, t))
