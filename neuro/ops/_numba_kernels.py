"""The fused kernels for the CPU, compiled by Numba at first use and cached on disk.

Layout: sequences are rows [T, M] of flattened features, or [1, M] when constant in time; states
and parameters are one row [M]. A kernel takes the features [start, stop) in blocks so small that
the rows it keeps between steps stay in the first-level cache, and runs a block through all steps.

Backward kernels keep nothing from the forward pass but its inputs: they integrate a block again,
into scratch that stays in the second-level cache, which costs less than writing the membrane to
memory and reading it back.

A step is a series of short loops over one row, each with few pointers and no branch inside that
does not depend on the element: the form that LLVM turns into vector instructions. Operations and
their order are those of the step-by-step references, without contraction (no fused multiply-add)
or fast-math, so that forward values agree bit for bit. An argument that is None drops its code at
compile time. Everything is in this one file because Numba's disk cache watches no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from neuro.ops.surrogate import KINDS

BLOCK = 1024  # features
SCRATCH = 1 << 19  # elements of scratch in a backward kernel: 2 MiB of float32
FAST_SIGMOID = KINDS.index("fast_sigmoid")
ATAN = KINDS.index("atan")
TRIANGLE = KINDS.index("triangle")

Kernel = Callable[..., Any]


def kernel(function: Kernel) -> Kernel:
    """Compiled at the first call with each combination of argument types, later read from disk."""
    compiled: Kernel = njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def row_loop(function: Kernel) -> Kernel:
    """A loop over the elements of a row; becomes part of the kernels that call it."""
    compiled: Kernel = njit(error_model="numpy")(function)
    return compiled


@row_loop
def _copy(source: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] = source[n]


@row_loop
def _add(source: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] += source[n]


@row_loop
def _multiply(factor: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] *= factor[n]


@row_loop
def _subtract(a: Any, b: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] = a[n] - b[n]


@row_loop
def _add_product(a: Any, b: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] += a[n] * b[n]


@row_loop
def _affine(a: Any, x: Any, b: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] = a[n] * x[n] + b[n]


@row_loop
def _integrate(u: Any, decay: Any, current: Any) -> None:
    for n in range(u.size):
        u[n] = decay * u[n] + current[n]


@row_loop
def _mix(gamma: Any, fast: Any, slow: Any, merged: Any) -> None:
    one = merged.dtype.type(1)
    for n in range(merged.size):
        merged[n] = gamma[n] * fast[n] + (one - gamma[n]) * slow[n]


@row_loop
def _fire(u: Any, theta: Any, spikes: Any) -> None:
    yes, no = spikes.dtype.type(1), spikes.dtype.type(0)
    for n in range(spikes.size):
        spikes[n] = yes if u[n] >= theta[n] else no


@row_loop
def _either(a: Any, b: Any, spikes: Any) -> None:
    for n in range(spikes.size):
        spikes[n] = max(a[n], b[n])


@row_loop
def _reset(u: Any, theta: Any, spikes: Any, zero: bool) -> None:
    nothing = u.dtype.type(0)
    if zero:
        for n in range(u.size):
            u[n] = nothing if spikes[n] > nothing else u[n]
    else:
        for n in range(u.size):
            u[n] -= theta[n] * spikes[n]


@row_loop
def _surrogate(x: Any, kind: int, slope: Any, target: Any) -> None:
    """`surrogate_derivative` of one row."""
    one, half_pi = target.dtype.type(1), target.dtype.type(math.pi / 2)
    if kind == FAST_SIGMOID:
        for n in range(target.size):
            d = one + abs(slope * x[n])
            target[n] = one / (d * d)
    elif kind == ATAN:
        for n in range(target.size):
            d = half_pi * slope * x[n]
            target[n] = slope / (one + one) / (one + d * d)
    elif kind == TRIANGLE:
        for n in range(target.size):
            target[n] = max(one - abs(slope * x[n]), one - one)
    else:
        for n in range(target.size):
            e = math.exp(-abs(slope * x[n]))
            target[n] = slope * e / ((one + e) * (one + e))


@row_loop
def _through_reset(x: Any, zero: bool, carry: Any) -> None:
    """The gradient that passes back through the reset: none where u was set to zero."""
    nothing = carry.dtype.type(0)
    if zero:
        for n in range(carry.size):
            carry[n] = nothing if x[n] >= nothing else carry[n]


@row_loop
def _add_product_below(a: Any, b: Any, x: Any, target: Any) -> None:
    """a * b is added where x = u - theta is below 0: where the other compartment is silent."""
    nothing = target.dtype.type(0)
    for n in range(target.size):
        target[n] += nothing if x[n] >= nothing else a[n] * b[n]


@row_loop
def _through_gate(grad: Any, gamma: Any, carry_fast: Any, carry_slow: Any) -> None:
    """The gradient of the merged membrane, shared out to its two parts."""
    one = grad.dtype.type(1)
    for n in range(grad.size):
        carry_fast[n] += gamma[n] * grad[n]
    for n in range(grad.size):
        carry_slow[n] += (one - gamma[n]) * grad[n]


@row_loop
def _add_gate_gradient(grad: Any, u_fast: Any, u_slow: Any, grad_gamma: Any) -> None:
    for n in range(grad.size):
        grad_gamma[n] += grad[n] * (u_fast[n] - u_slow[n])


@row_loop
def _emit(carry: Any, grads: Any, t: int, start: int, stop: int) -> None:
    """The gradient of the input at step t: written there, or summed into the only row."""
    if grads.shape[0] == 1:
        _add(carry, grads[0, start:stop])
    else:
        _copy(carry, grads[t, start:stop])


@row_loop
def _scale(factor: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] *= factor


@row_loop
def _lif_step(
    u: Any, current: Any, theta: Any, decay: Any, zero: bool, membrane: Any, spikes: Any
) -> None:
    """u in place; spikes and the membrane before the reset (or None) out."""
    _integrate(u, decay, current)
    if membrane is not None:
        _copy(u, membrane)
    _fire(u, theta, spikes)
    _reset(u, theta, spikes, zero)


@row_loop
def _fire_pair(
    u_fast: Any, u_slow: Any, theta: Any, gamma: Any, zero: bool,
    mixed: Any, spikes_fast: Any, spikes_slow: Any, spikes: Any,
) -> None:  # fmt: skip
    """Branch and merged spikes out; both compartments reset. mixed is scratch."""
    _fire(u_fast, theta, spikes_fast)
    _fire(u_slow, theta, spikes_slow)
    if gamma is not None:
        _mix(gamma, u_fast, u_slow, mixed)
        _fire(mixed, theta, spikes)
        _reset(u_fast, theta, spikes, zero)
        _reset(u_slow, theta, spikes, zero)
    else:
        _either(spikes_fast, spikes_slow, spikes)
        _reset(u_fast, theta, spikes_fast, zero)
        _reset(u_slow, theta, spikes_slow, zero)


@row_loop
def _narrow_block(steps: int) -> int:
    """Features whose membranes of all steps fit the second-level cache, in whole cache lines."""
    return max(16, min(BLOCK, SCRATCH // steps // 16 * 16))


@kernel
def lif_forward(
    current: Any, theta: Any, u: Any, spikes: Any, membrane: Any, decay: Any, zero: bool,
    start: int, stop: int,
) -> None:  # fmt: skip
    """u: [M] in and out. spikes, membrane (or None): [T, M] out."""
    last = current.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        u_row, theta_row = u[i:j], theta[i:j]
        for t in range(spikes.shape[0]):
            drive = current[min(t, last), i:j]
            if membrane is not None:
                _lif_step(u_row, drive, theta_row, decay, zero, membrane[t, i:j], spikes[t, i:j])
            else:
                _lif_step(u_row, drive, theta_row, decay, zero, None, spikes[t, i:j])


@kernel
def lif_backward(
    current: Any, theta: Any, u0: Any, grad_spikes: Any, grad_membrane: Any, carry: Any,
    grad_current: Any, decay: Any, zero: bool, kind: int, slope: Any, steps: int,
    start: int, stop: int,
) -> None:  # fmt: skip
    """carry: [M], the gradient of the last state in, of the initial state out.

    grad_membrane may be None. grad_current: [T, M] out, or [1, M] zeros in and the sum out.
    """
    block = _narrow_block(steps)
    membrane, buffers = np.empty((steps, block), theta.dtype), np.empty((2, block), theta.dtype)
    last_current, last_grad = current.shape[0] - 1, grad_spikes.shape[0] - 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        width = j - i
        carry_row, theta_row = carry[i:j], theta[i:j]
        u, x = buffers[0, :width], buffers[1, :width]
        _copy(u0[i:j], u)
        for t in range(steps):
            drive = current[min(t, last_current), i:j]
            _lif_step(u, drive, theta_row, decay, zero, membrane[t, :width], x)
        derivative = u
        for t in range(steps - 1, -1, -1):
            _subtract(membrane[t, :width], theta_row, x)
            _through_reset(x, zero, carry_row)
            _surrogate(x, kind, slope, derivative)
            _add_product(derivative, grad_spikes[min(t, last_grad), i:j], carry_row)
            if grad_membrane is not None:
                _add(grad_membrane[min(t, grad_membrane.shape[0] - 1), i:j], carry_row)
            _emit(carry_row, grad_current, t, i, j)
            _scale(decay, carry_row)


@kernel
def dual_lif_forward(
    fast: Any, slow: Any, theta: Any, gamma: Any, u_fast: Any, u_slow: Any, spikes: Any,
    count_fast: Any, count_slow: Any, spikes_fast: Any, spikes_slow: Any,
    membrane_fast: Any, membrane_slow: Any, decay_fast: Any, decay_slow: Any, zero: bool,
    start: int, stop: int,
) -> None:  # fmt: skip
    """gamma: [M] merges by gate, None by or. u: [M] in and out. counts: [M], zeros in.

    spikes: [T, M] out; branch spikes and membranes likewise, each pair may be None.
    """
    buffers = np.empty((3, BLOCK), theta.dtype)
    last_fast, last_slow = fast.shape[0] - 1, slow.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        uf, us, theta_row = u_fast[i:j], u_slow[i:j], theta[i:j]
        gate = None if gamma is None else gamma[i:j]
        mixed, sf, ss = buffers[0, : j - i], buffers[1, : j - i], buffers[2, : j - i]
        for t in range(spikes.shape[0]):
            _integrate(uf, decay_fast, fast[min(t, last_fast), i:j])
            _integrate(us, decay_slow, slow[min(t, last_slow), i:j])
            if membrane_fast is not None:
                _copy(uf, membrane_fast[t, i:j])
                _copy(us, membrane_slow[t, i:j])
            _fire_pair(uf, us, theta_row, gate, zero, mixed, sf, ss, spikes[t, i:j])
            _add(sf, count_fast[i:j])
            _add(ss, count_slow[i:j])
            if spikes_fast is not None:
                _copy(sf, spikes_fast[t, i:j])
                _copy(ss, spikes_slow[t, i:j])


@kernel
def dual_lif_backward(
    fast: Any, slow: Any, theta: Any, gamma: Any, u0_fast: Any, u0_slow: Any, grad_spikes: Any,
    carry_fast: Any, carry_slow: Any, grad_gamma: Any, grad_fast: Any, grad_slow: Any,
    decay_fast: Any, decay_slow: Any, zero: bool, kind: int, slope: Any, steps: int,
    start: int, stop: int,
) -> None:  # fmt: skip
    """carry: [M], gradients of the last states in, of the initial states out.

    gamma and grad_gamma ([M], zeros in) are None when merged by or.
    """
    block = _narrow_block(2 * steps)
    membranes = np.empty((2, steps, block), theta.dtype)
    buffers = np.empty((6, block), theta.dtype)
    last_fast, last_slow = fast.shape[0] - 1, slow.shape[0] - 1
    last_grad = grad_spikes.shape[0] - 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        width = j - i
        cf, cs, theta_row = carry_fast[i:j], carry_slow[i:j], theta[i:j]
        gate = None if gamma is None else gamma[i:j]
        uf, us, xf = buffers[0, :width], buffers[1, :width], buffers[2, :width]
        xs, d, s = buffers[3, :width], buffers[4, :width], buffers[5, :width]
        _copy(u0_fast[i:j], uf)
        _copy(u0_slow[i:j], us)
        for t in range(steps):
            _integrate(uf, decay_fast, fast[min(t, last_fast), i:j])
            _integrate(us, decay_slow, slow[min(t, last_slow), i:j])
            _copy(uf, membranes[0, t, :width])
            _copy(us, membranes[1, t, :width])
            _fire_pair(uf, us, theta_row, gate, zero, d, xf, xs, s)
        for t in range(steps - 1, -1, -1):
            uf, us = membranes[0, t, :width], membranes[1, t, :width]
            grad_row = grad_spikes[min(t, last_grad), i:j]
            if gamma is not None:
                _mix(gamma[i:j], uf, us, xf)
                _subtract(xf, theta_row, xf)
                _through_reset(xf, zero, cf)
                _through_reset(xf, zero, cs)
                _surrogate(xf, kind, slope, d)
                _multiply(grad_row, d)
                _through_gate(d, gamma[i:j], cf, cs)
                _add_gate_gradient(d, uf, us, grad_gamma[i:j])
            else:
                _subtract(uf, theta_row, xf)
                _subtract(us, theta_row, xs)
                _through_reset(xf, zero, cf)
                _through_reset(xs, zero, cs)
                _surrogate(xf, kind, slope, d)
                _add_product_below(d, grad_row, xs, cf)
                _surrogate(xs, kind, slope, d)
                _add_product_below(d, grad_row, xf, cs)
            _emit(cf, grad_fast, t, i, j)
            _emit(cs, grad_slow, t, i, j)
            _scale(decay_fast, cf)
            _scale(decay_slow, cs)


@kernel
def scan_forward(a: Any, b: Any, x0: Any, x: Any, start: int, stop: int) -> None:
    """x0: [M] in; x: [T, M] out."""
    last_a, last_b = a.shape[0] - 1, b.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        before = x0[i:j]
        for t in range(x.shape[0]):
            _affine(a[min(t, last_a), i:j], before, b[min(t, last_b), i:j], x[t, i:j])
            before = x[t, i:j]


@kernel
def scan_backward(
    a: Any, x: Any, x0: Any, grad_x: Any, carry: Any, grad_a: Any, grad_b: Any, steps: int,
    start: int, stop: int,
) -> None:  # fmt: skip
    """carry: [M], zeros in and the gradient of x0 out. x, grad_a: None when a has no gradient."""
    last_a, last_grad = a.shape[0] - 1, grad_x.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        carry_row = carry[i:j]
        for t in range(steps - 1, -1, -1):
            _add(grad_x[min(t, last_grad), i:j], carry_row)
            if grad_a is not None:
                before = x[t - 1, i:j] if t > 0 else x0[i:j]
                _add_product(carry_row, before, grad_a[min(t, grad_a.shape[0] - 1), i:j])
            _emit(carry_row, grad_b, t, i, j)
            _multiply(a[min(t, last_a), i:j], carry_row)
