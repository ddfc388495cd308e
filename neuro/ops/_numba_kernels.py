"""The fused kernels for the CPU, compiled by Numba at first use and cached on disk.

Layout: sequences are rows [T, M] of flattened features, or [1, M] when constant in time; states
and parameters are one row [M]. A kernel takes the features [start, stop) in blocks so small that
the rows it keeps between steps stay in the cache, and runs a block through all steps.

Backward kernels keep nothing from the forward pass but its inputs: they integrate a block again,
into scratch that stays in the cache. This takes about as long as writing the membrane to memory
and reading it back, and saves a tensor of the size of the current.

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

BLOCK = 2048  # features
SCRATCH = 1 << 19  # elements of scratch in a backward kernel, 2 MiB of float32 per thread
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
def _add_product(a: Any, b: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] += a[n] * b[n]


@row_loop
def _affine(a: Any, x: Any, b: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] = a[n] * x[n] + b[n]


@row_loop
def _integrate(u: Any, current: Any, decay: Any, membrane: Any) -> None:
    for n in range(u.size):
        membrane[n] = decay * u[n] + current[n]


@row_loop
def _mix(gamma: Any, fast: Any, slow: Any, merged: Any) -> None:
    one = merged.dtype.type(1)
    for n in range(merged.size):
        merged[n] = gamma[n] * fast[n] + (one - gamma[n]) * slow[n]


@row_loop
def _fire(membrane: Any, theta: Any, spikes: Any) -> None:
    yes, no = spikes.dtype.type(1), spikes.dtype.type(0)
    for n in range(spikes.size):
        spikes[n] = yes if membrane[n] >= theta[n] else no


@row_loop
def _either(a: Any, b: Any, spikes: Any) -> None:
    for n in range(spikes.size):
        spikes[n] = max(a[n], b[n])


@row_loop
def _reset(membrane: Any, theta: Any, spikes: Any, zero: bool, u: Any) -> None:
    nothing = u.dtype.type(0)
    if zero:
        for n in range(u.size):
            u[n] = nothing if spikes[n] > nothing else membrane[n]
    else:
        for n in range(u.size):
            u[n] = membrane[n] - theta[n] * spikes[n]


@row_loop
def _advance(u: Any, current: Any, theta: Any, decay: Any, zero: bool, membrane: Any) -> None:
    """One step of an LIF neuron in a single loop: `_integrate`, `_fire` and `_reset`."""
    nothing = u.dtype.type(0)
    for n in range(u.size):
        v = decay * u[n] + current[n]
        membrane[n] = v
        u[n] = (nothing if zero else v - theta[n]) if v >= theta[n] else v


@row_loop
def _surrogate(
    membrane: Any, theta: Any, kind: int, slope: Any, grad_spikes: Any, direct: Any
) -> None:
    """The gradient that reaches the membrane through its spike: grad * `surrogate_derivative`."""
    one, half_pi = theta.dtype.type(1), theta.dtype.type(math.pi / 2)
    if kind == FAST_SIGMOID:
        for n in range(theta.size):
            d = one + abs(slope * (membrane[n] - theta[n]))
            direct[n] = grad_spikes[n] / (d * d)
    elif kind == ATAN:
        for n in range(theta.size):
            d = half_pi * slope * (membrane[n] - theta[n])
            direct[n] = grad_spikes[n] * (slope / (one + one) / (one + d * d))
    elif kind == TRIANGLE:
        for n in range(theta.size):
            d = max(one - abs(slope * (membrane[n] - theta[n])), one - one)
            direct[n] = grad_spikes[n] * d
    else:
        for n in range(theta.size):
            e = math.exp(-abs(slope * (membrane[n] - theta[n])))
            direct[n] = grad_spikes[n] * (slope * e / ((one + e) * (one + e)))


@row_loop
def _through_reset(membrane: Any, theta: Any, zero: bool, carry: Any) -> None:
    """The gradient that passes back through the reset: none where u was set to zero."""
    nothing = carry.dtype.type(0)
    if zero:
        for n in range(carry.size):
            carry[n] = nothing if membrane[n] >= theta[n] else carry[n]


@row_loop
def _where_silent(membrane: Any, theta: Any, direct: Any) -> None:
    """Merged by or, a spike counts where the other compartment, given here, is silent."""
    nothing = direct.dtype.type(0)
    for n in range(direct.size):
        direct[n] = nothing if membrane[n] >= theta[n] else direct[n]


@row_loop
def _share(grad: Any, gamma: Any, fast: Any, slow: Any) -> None:
    """The gradient of the merged membrane, shared out to its two parts; slow may be grad itself."""
    one = grad.dtype.type(1)
    for n in range(grad.size):
        fast[n] = gamma[n] * grad[n]
    for n in range(grad.size):
        slow[n] = (one - gamma[n]) * grad[n]


@row_loop
def _add_gate_gradient(grad: Any, fast: Any, slow: Any, grad_gamma: Any) -> None:
    for n in range(grad.size):
        grad_gamma[n] += grad[n] * (fast[n] - slow[n])


@row_loop
def _emit(carry: Any, summed: bool, grad: Any) -> None:
    """The gradient of the input at one step: written, or added to the sum over all steps."""
    if summed:
        _add(carry, grad)
    else:
        _copy(carry, grad)


@row_loop
def _emit_and_leak(direct: Any, carry: Any, decay: Any, summed: bool, grad: Any) -> None:
    """The current's gradient is the membrane's; the step before gets it through the leak."""
    if summed:
        for n in range(carry.size):
            total = carry[n] + direct[n]
            grad[n] += total
            carry[n] = decay * total
    else:
        for n in range(carry.size):
            total = carry[n] + direct[n]
            grad[n] = total
            carry[n] = decay * total


@row_loop
def _narrow_block(steps: int) -> int:
    """Features of a block for which `steps` rows fit the scratch, in whole cache lines."""
    return max(16, min(BLOCK, SCRATCH // steps // 16 * 16))


@kernel
def lif_forward(
    current: Any, theta: Any, u: Any, spikes: Any, membrane: Any, decay: Any, zero: bool,
    start: int, stop: int,
) -> None:  # fmt: skip
    """u: [M] in and out. spikes, membrane (or None): [T, M] out."""
    buffer = np.empty(BLOCK, theta.dtype)
    last = current.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        u_row, theta_row, v = u[i:j], theta[i:j], buffer[: j - i]
        for t in range(spikes.shape[0]):
            spike_row = spikes[t, i:j]
            _integrate(u_row, current[min(t, last), i:j], decay, v)
            _fire(v, theta_row, spike_row)
            _reset(v, theta_row, spike_row, zero, u_row)
            if membrane is not None:
                _copy(v, membrane[t, i:j])


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
    summed = grad_current.shape[0] == 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        carry_row, theta_row = carry[i:j], theta[i:j]
        u, direct = buffers[0, : j - i], buffers[1, : j - i]
        _copy(u0[i:j], u)
        for t in range(steps):
            v = membrane[t, : j - i]
            _advance(u, current[min(t, last_current), i:j], theta_row, decay, zero, v)
        for t in range(steps - 1, -1, -1):
            v = membrane[t, : j - i]
            _through_reset(v, theta_row, zero, carry_row)
            _surrogate(v, theta_row, kind, slope, grad_spikes[min(t, last_grad), i:j], direct)
            if grad_membrane is not None:
                _add(grad_membrane[min(t, grad_membrane.shape[0] - 1), i:j], direct)
            out = grad_current[0 if summed else t, i:j]
            _emit_and_leak(direct, carry_row, decay, summed, out)


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
    buffers = np.empty((5, BLOCK), theta.dtype)
    last_fast, last_slow = fast.shape[0] - 1, slow.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        uf, us, theta_row = u_fast[i:j], u_slow[i:j], theta[i:j]
        vf, vs, merged = buffers[0, : j - i], buffers[1, : j - i], buffers[2, : j - i]
        sf, ss = buffers[3, : j - i], buffers[4, : j - i]
        for t in range(spikes.shape[0]):
            spike_row = spikes[t, i:j]
            _integrate(uf, fast[min(t, last_fast), i:j], decay_fast, vf)
            _integrate(us, slow[min(t, last_slow), i:j], decay_slow, vs)
            _fire(vf, theta_row, sf)
            _fire(vs, theta_row, ss)
            if gamma is not None:
                _mix(gamma[i:j], vf, vs, merged)
                _fire(merged, theta_row, spike_row)
                _reset(vf, theta_row, spike_row, zero, uf)
                _reset(vs, theta_row, spike_row, zero, us)
            else:
                _either(sf, ss, spike_row)
                _reset(vf, theta_row, sf, zero, uf)
                _reset(vs, theta_row, ss, zero, us)
            _add(sf, count_fast[i:j])
            _add(ss, count_slow[i:j])
            if spikes_fast is not None:
                _copy(sf, spikes_fast[t, i:j])
                _copy(ss, spikes_slow[t, i:j])
            if membrane_fast is not None:
                _copy(vf, membrane_fast[t, i:j])
                _copy(vs, membrane_slow[t, i:j])


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
    buffers = np.empty((5, block), theta.dtype)
    last_fast, last_slow = fast.shape[0] - 1, slow.shape[0] - 1
    last_grad = grad_spikes.shape[0] - 1
    summed_fast, summed_slow = grad_fast.shape[0] == 1, grad_slow.shape[0] == 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        cf, cs, theta_row = carry_fast[i:j], carry_slow[i:j], theta[i:j]
        uf, us, merged = buffers[0, : j - i], buffers[1, : j - i], buffers[2, : j - i]
        df, ds = buffers[3, : j - i], buffers[4, : j - i]
        _copy(u0_fast[i:j], uf)
        _copy(u0_slow[i:j], us)
        for t in range(steps):
            vf, vs = membranes[0, t, : j - i], membranes[1, t, : j - i]
            fast_row, slow_row = fast[min(t, last_fast), i:j], slow[min(t, last_slow), i:j]
            if gamma is not None:
                _integrate(uf, fast_row, decay_fast, vf)
                _integrate(us, slow_row, decay_slow, vs)
                _mix(gamma[i:j], vf, vs, merged)
                _fire(merged, theta_row, df)
                _reset(vf, theta_row, df, zero, uf)
                _reset(vs, theta_row, df, zero, us)
            else:
                _advance(uf, fast_row, theta_row, decay_fast, zero, vf)
                _advance(us, slow_row, theta_row, decay_slow, zero, vs)
        for t in range(steps - 1, -1, -1):
            vf, vs = membranes[0, t, : j - i], membranes[1, t, : j - i]
            grad_row = grad_spikes[min(t, last_grad), i:j]
            if gamma is not None:
                _mix(gamma[i:j], vf, vs, merged)
                _through_reset(merged, theta_row, zero, cf)
                _through_reset(merged, theta_row, zero, cs)
                _surrogate(merged, theta_row, kind, slope, grad_row, ds)
                _add_gate_gradient(ds, vf, vs, grad_gamma[i:j])
                _share(ds, gamma[i:j], df, ds)
            else:
                _through_reset(vf, theta_row, zero, cf)
                _through_reset(vs, theta_row, zero, cs)
                _surrogate(vf, theta_row, kind, slope, grad_row, df)
                _surrogate(vs, theta_row, kind, slope, grad_row, ds)
                _where_silent(vs, theta_row, df)
                _where_silent(vf, theta_row, ds)
            _emit_and_leak(df, cf, decay_fast, summed_fast, grad_fast[0 if summed_fast else t, i:j])
            _emit_and_leak(ds, cs, decay_slow, summed_slow, grad_slow[0 if summed_slow else t, i:j])


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
    summed = grad_b.shape[0] == 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        carry_row = carry[i:j]
        for t in range(steps - 1, -1, -1):
            _add(grad_x[min(t, last_grad), i:j], carry_row)
            if grad_a is not None:
                before = x[t - 1, i:j] if t > 0 else x0[i:j]
                _add_product(carry_row, before, grad_a[min(t, grad_a.shape[0] - 1), i:j])
            _emit(carry_row, summed, grad_b[0 if summed else t, i:j])
            _multiply(a[min(t, last_a), i:j], carry_row)
