"""The fused kernels for the CPU, compiled by Numba at first use and cached on disk.

Layout: sequences are rows [T, M] of flattened features, or [1, M] when constant in time; states
and parameters are one row [M]. A kernel takes the features [start, stop) in blocks so small that
the rows it keeps between steps stay in the cache, and runs a block through all steps.

Backward kernels keep nothing from the forward pass but its inputs: they integrate a block again,
into scratch that stays in the cache. This takes about as long as writing the membrane to memory
and reading it back, and saves a tensor of the size of the current.

A step is one loop over a row: every array of it is read and written once, and what an element needs
in between stays in registers. Inside there is no branch that does not depend on the element, the
form that LLVM turns into vector instructions: it checks before the loop that the arrays do not
overlap. Operations and their order are those of the step-by-step references, without contraction
(no fused multiply-add) or fast-math, so that forward values agree bit for bit. An argument that is
None drops its code at compile time. Everything is in this one file because Numba's disk cache
watches no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from neuro.ops.surrogate import KINDS

# Features. Long rows are read faster than short ones (2048 cost up to a fifth more), and of this
# length the six that a dual neuron keeps between steps still fit a second-level cache.
BLOCK = 1 << 14
SCRATCH = 1 << 20  # elements of scratch in a backward kernel, 4 MiB of float32 per thread
FAST_SIGMOID, ATAN, TRIANGLE, SIGMOID = (
    KINDS.index(kind) for kind in ("fast_sigmoid", "atan", "triangle", "sigmoid")
)

Kernel = Callable[..., Any]


def kernel(function: Kernel) -> Kernel:
    """Compiled at the first call with each combination of argument types, later read from disk."""
    compiled: Kernel = njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def row_loop(function: Kernel) -> Kernel:
    """A loop over the elements of a row, or a part of one; copied into the kernels that call it."""
    compiled: Kernel = njit(error_model="numpy", forceinline=True)(function)
    return compiled


def surrogate_loop(function: Kernel) -> Kernel:
    """A row loop whose first argument is the kind of surrogate, copied once for every kind.

    In each copy the kind is a constant: asked for inside the loop it would keep LLVM from
    vectorising it.
    """
    loop = row_loop(function)

    def choose(kind: int, *args: Any) -> None:
        if kind == FAST_SIGMOID:
            loop(FAST_SIGMOID, *args)
        elif kind == ATAN:
            loop(ATAN, *args)
        elif kind == TRIANGLE:
            loop(TRIANGLE, *args)
        else:
            loop(SIGMOID, *args)

    return row_loop(choose)


@row_loop
def _at(rows: Any, t: int, i: int, j: int) -> Any:
    """The features [i, j) of row t, or of the only row; None of None."""
    if rows is None:
        return None
    return rows[min(t, rows.shape[0] - 1), i:j]


@row_loop
def _part(row: Any, i: int, j: int) -> Any:
    """The features [i, j) of a row; None of None."""
    if row is None:
        return None
    return row[i:j]


@row_loop
def _unless(given: Any, row: Any) -> Any:
    """The row, or None where `given` is something."""
    if given is not None:
        return None
    return row


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
def _emit(carry: Any, summed: bool, grad: Any) -> None:
    """The gradient of the input at one step: written, or added to the sum over all steps."""
    if summed:
        _add(carry, grad)
    else:
        _copy(carry, grad)


@row_loop
def _after_reset(v: Any, theta: Any, fires: bool, zero: bool) -> Any:
    """The membrane v after the reset; v - theta where it fires is v - theta * 1 to the bit."""
    return (type(v)(0) if zero else v - theta) if fires else v


@row_loop
def _lif_step(
    u: Any, current: Any, theta: Any, decay: Any, zero: bool, spikes: Any, membrane: Any
) -> None:
    """One step of LIF neurons; spikes and membrane may be None."""
    yes, no = u.dtype.type(1), u.dtype.type(0)
    for n in range(u.size):
        v = decay * u[n] + current[n]
        fires = v >= theta[n]
        u[n] = _after_reset(v, theta[n], fires, zero)
        if spikes is not None:
            spikes[n] = yes if fires else no
        if membrane is not None:
            membrane[n] = v


@row_loop
def _dual_step(
    u_fast: Any, u_slow: Any, fast: Any, slow: Any, theta: Any, gamma: Any,
    decay_fast: Any, decay_slow: Any, zero: bool, spikes: Any, count_fast: Any, count_slow: Any,
    spikes_fast: Any, spikes_slow: Any, membrane_fast: Any, membrane_slow: Any,
) -> None:  # fmt: skip
    """One step of dual-timescale neurons, by gate or (gamma None) by or.

    Spikes, counts, branch spikes and membranes may be None.
    """
    yes, no = u_fast.dtype.type(1), u_fast.dtype.type(0)
    for n in range(u_fast.size):
        vf, vs = decay_fast * u_fast[n] + fast[n], decay_slow * u_slow[n] + slow[n]
        branch_fast, branch_slow = vf >= theta[n], vs >= theta[n]
        if gamma is not None:
            fires = gamma[n] * vf + (yes - gamma[n]) * vs >= theta[n]
            u_fast[n] = _after_reset(vf, theta[n], fires, zero)
            u_slow[n] = _after_reset(vs, theta[n], fires, zero)
        else:
            fires = branch_fast | branch_slow
            u_fast[n] = _after_reset(vf, theta[n], branch_fast, zero)
            u_slow[n] = _after_reset(vs, theta[n], branch_slow, zero)
        if spikes is not None:
            spikes[n] = yes if fires else no
        if count_fast is not None:
            count_fast[n] += yes if branch_fast else no
            count_slow[n] += yes if branch_slow else no
        if spikes_fast is not None:
            spikes_fast[n] = yes if branch_fast else no
            spikes_slow[n] = yes if branch_slow else no
        if membrane_fast is not None:
            membrane_fast[n], membrane_slow[n] = vf, vs


@row_loop
def _sigmoid_derivative(slope: Any, x: Any) -> Any:
    """The one derivative with an exponential; it cannot overflow, being even in x."""
    one = type(x)(1)
    e = math.exp(-abs(slope * x))
    return slope * e / ((one + e) * (one + e))


@row_loop
def _through_spike(kind: int, slope: Any, x: Any, grad: Any, sigmoid_derivative: Any) -> Any:
    """The gradient that reaches x = u - theta through its spike: grad * `surrogate_derivative`."""
    one, half_pi = type(x)(1), type(x)(math.pi / 2)
    if kind == FAST_SIGMOID:
        d = one + abs(slope * x)
        return grad / (d * d)
    if kind == ATAN:
        d = half_pi * slope * x
        return grad * (slope / (one + one) / (one + d * d))
    if kind == TRIANGLE:
        return grad * max(one - abs(slope * x), one - one)
    return grad * sigmoid_derivative


@surrogate_loop
def _lif_gradient(
    kind: int, slope: Any, membrane: Any, theta: Any, grad_spikes: Any, grad_membrane: Any,
    carry: Any, grad: Any, decay: Any, zero: bool, buffer: Any,
) -> None:  # fmt: skip
    """The current's gradient is the membrane's; the step before gets it through leak and reset.

    Where u was set to zero nothing passes back. grad_membrane may be None.
    """
    nothing = carry.dtype.type(0)
    if kind == SIGMOID:  # apart, since LLVM does not vectorise an exponential
        for n in range(carry.size):
            buffer[n] = _sigmoid_derivative(slope, membrane[n] - theta[n])
    for n in range(carry.size):
        v = membrane[n]
        total = nothing if zero and v >= theta[n] else carry[n]
        total += _through_spike(kind, slope, v - theta[n], grad_spikes[n], buffer[n])
        if grad_membrane is not None:
            total += grad_membrane[n]
        grad[n] = total
        carry[n] = decay * total


@surrogate_loop
def _dual_gradient(
    kind: int, slope: Any, membrane_fast: Any, membrane_slow: Any, theta: Any, gamma: Any,
    grad_spikes: Any, carry_fast: Any, carry_slow: Any, grad_gamma: Any,
    grad_fast: Any, grad_slow: Any, decay_fast: Any, decay_slow: Any, zero: bool,
    buffer_fast: Any, buffer_slow: Any,
) -> None:  # fmt: skip
    """As `_lif_gradient`, for both compartments."""
    one, nothing = theta.dtype.type(1), theta.dtype.type(0)
    if kind == SIGMOID:
        for n in range(theta.size):
            vf, vs = membrane_fast[n], membrane_slow[n]
            if gamma is not None:
                merged = gamma[n] * vf + (one - gamma[n]) * vs
                buffer_fast[n] = _sigmoid_derivative(slope, merged - theta[n])
            else:
                buffer_fast[n] = _sigmoid_derivative(slope, vf - theta[n])
                buffer_slow[n] = _sigmoid_derivative(slope, vs - theta[n])
    for n in range(theta.size):
        vf, vs = membrane_fast[n], membrane_slow[n]
        if gamma is not None:
            merged = gamma[n] * vf + (one - gamma[n]) * vs
            fires_fast = fires_slow = merged >= theta[n]
            x, grad = merged - theta[n], grad_spikes[n]
            through = _through_spike(kind, slope, x, grad, buffer_fast[n])
            grad_gamma[n] += through * (vf - vs)
            through_fast, through_slow = gamma[n] * through, (one - gamma[n]) * through
        else:
            fires_fast, fires_slow = vf >= theta[n], vs >= theta[n]
            x_fast, x_slow, grad = vf - theta[n], vs - theta[n], grad_spikes[n]
            through_fast = _through_spike(kind, slope, x_fast, grad, buffer_fast[n])
            through_slow = _through_spike(kind, slope, x_slow, grad, buffer_slow[n])
            # a spike counts where the other compartment is silent
            through_fast = nothing if fires_slow else through_fast
            through_slow = nothing if fires_fast else through_slow
        total_fast = (nothing if zero and fires_fast else carry_fast[n]) + through_fast
        total_slow = (nothing if zero and fires_slow else carry_slow[n]) + through_slow
        grad_fast[n], grad_slow[n] = total_fast, total_slow
        carry_fast[n], carry_slow[n] = decay_fast * total_fast, decay_slow * total_slow


@row_loop
def _narrow_block(steps: int) -> int:
    """Features of a block for which `steps` rows fit the scratch, in whole cache lines."""
    return max(16, min(BLOCK, SCRATCH // steps // 16 * 16))


@kernel
def lif_forward(
    current: Any, theta: Any, u: Any, spikes: Any, count: Any, membrane: Any, decay: Any,
    zero: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """u: [M] in and out. spikes, membrane (or None): [T, M] out. count (or None): [M], zeros in."""
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            _lif_step(
                u[i:j], _at(current, t, i, j), theta[i:j], decay, zero,
                spikes[t, i:j], _at(membrane, t, i, j),
            )  # fmt: skip
            if count is not None:
                _add(spikes[t, i:j], count[i:j])


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
    summed = grad_current.shape[0] == 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        u, grad = buffers[0, : j - i], buffers[1, : j - i]
        _copy(u0[i:j], u)
        for t in range(steps):
            _lif_step(u, _at(current, t, i, j), theta[i:j], decay, zero, None, membrane[t, : j - i])
        for t in range(steps - 1, -1, -1):
            out = _at(grad_current, t, i, j)
            _lif_gradient(
                kind, slope, membrane[t, : j - i], theta[i:j], _at(grad_spikes, t, i, j),
                _at(grad_membrane, t, i, j), carry[i:j], grad if summed else out, decay, zero, u,
            )  # fmt: skip
            if summed:
                _add(grad, out)


@kernel
def dual_lif_forward(
    fast: Any, slow: Any, theta: Any, gamma: Any, u_fast: Any, u_slow: Any, spikes: Any,
    count: Any, count_fast: Any, count_slow: Any, spikes_fast: Any, spikes_slow: Any,
    membrane_fast: Any, membrane_slow: Any, decay_fast: Any, decay_slow: Any, zero: bool,
    start: int, stop: int,
) -> None:  # fmt: skip
    """gamma: [M] merges by gate, None by or. u: [M] in and out. counts: [M], zeros in.

    spikes: [T, M] out; branch spikes and membranes likewise, each pair may be None, as may count.
    """
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            # LLVM no longer vectorises a loop with everything in it: of so many arrays it does not
            # check that they are apart. Recorded spikes are counted afterwards.
            _dual_step(
                u_fast[i:j], u_slow[i:j], _at(fast, t, i, j), _at(slow, t, i, j), theta[i:j],
                _part(gamma, i, j), decay_fast, decay_slow, zero, spikes[t, i:j],
                _unless(spikes_fast, count_fast[i:j]), _unless(spikes_slow, count_slow[i:j]),
                _at(spikes_fast, t, i, j), _at(spikes_slow, t, i, j),
                _at(membrane_fast, t, i, j), _at(membrane_slow, t, i, j),
            )  # fmt: skip
            if count is not None:
                _add(spikes[t, i:j], count[i:j])
            if spikes_fast is not None:
                _add(spikes_fast[t, i:j], count_fast[i:j])
                _add(spikes_slow[t, i:j], count_slow[i:j])


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
    buffers = np.empty((4, block), theta.dtype)
    summed_fast, summed_slow = grad_fast.shape[0] == 1, grad_slow.shape[0] == 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        u_fast, u_slow = buffers[0, : j - i], buffers[1, : j - i]
        sum_fast, sum_slow = buffers[2, : j - i], buffers[3, : j - i]
        _copy(u0_fast[i:j], u_fast)
        _copy(u0_slow[i:j], u_slow)
        for t in range(steps):
            _dual_step(
                u_fast, u_slow, _at(fast, t, i, j), _at(slow, t, i, j), theta[i:j],
                _part(gamma, i, j), decay_fast, decay_slow, zero, None, None, None, None, None,
                membranes[0, t, : j - i], membranes[1, t, : j - i],
            )  # fmt: skip
        for t in range(steps - 1, -1, -1):
            out_fast, out_slow = _at(grad_fast, t, i, j), _at(grad_slow, t, i, j)
            _dual_gradient(
                kind, slope, membranes[0, t, : j - i], membranes[1, t, : j - i], theta[i:j],
                _part(gamma, i, j), _at(grad_spikes, t, i, j), carry_fast[i:j], carry_slow[i:j],
                _part(grad_gamma, i, j), sum_fast if summed_fast else out_fast,
                sum_slow if summed_slow else out_slow, decay_fast, decay_slow, zero,
                u_fast, u_slow,
            )  # fmt: skip
            if summed_fast:
                _add(sum_fast, out_fast)
            if summed_slow:
                _add(sum_slow, out_slow)


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
