"""Fused CPU kernels of LIF neurons and linear scans, compiled by Numba and cached on disk.

Layout: sequences are rows [T, M] of flattened features, or [1, M] if constant in time; states and
parameters are one row [M]. A kernel processes the features [start, stop) in blocks, each block
through all steps, so that the rows kept between steps stay in the cache.

Backward kernels get the inputs of the forward pass only. They integrate each block again, into
scratch memory that stays in the cache: as fast as writing the membrane to memory and reading it
back, and a tensor of the size of the current less.

A step is one loop over a row, in which each array is read and written once. Branches inside the
loop depend on the element alone; LLVM turns those into vector instructions, after a check that the
arrays do not overlap. Operations and their order are those of the step-by-step references, without
contraction (fused multiply-add) or fast-math, so forward values agree bit for bit. Code that uses
an argument is dropped at compile time if the argument is None.

Parameters without annotation are arrays, scalars of the arrays' dtype, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from neuro.ops.kernels.vectors import LANES, NO_BIT, load, not_zero, zeros_16
from neuro.ops.surrogate import KINDS

# Features per block. Long rows are read faster than short ones (blocks of 2048 cost up to a fifth
# more), and six rows of this length, the state of dual-timescale neurons, fit a second-level cache.
BLOCK = 1 << 14
SCRATCH = 1 << 20  # elements of scratch memory per thread in a backward kernel: 4 MiB of float32
FAST_SIGMOID, ATAN, TRIANGLE, SIGMOID = (
    KINDS.index(kind) for kind in ("fast_sigmoid", "atan", "triangle", "sigmoid")
)

ONE, HALF_PI = 1.0, math.pi / 2

Kernel = Callable[..., Any]

#: Numba's disk cache would compare only the kernel's own file, not the files that it imports from
_STAMP = tuple(
    (path.name, path.stat().st_mtime, path.stat().st_size)
    for path in sorted(Path(__file__).parents[1].rglob("*.py"))
)


def kernel(function: Kernel) -> Kernel:
    """Compile at the first call with each combination of argument types; cache the result on disk.

    The compiled code releases the GIL, so that chunks run in parallel threads. It is compiled again
    after a change of any file of `ops`.
    """
    compiled: Any = njit(nogil=True, cache=True, error_model="numpy")(function)
    compiled._cache._cache_file._source_stamp = _STAMP
    return compiled


def row_loop(function: Kernel) -> Kernel:
    """Compile a loop over the elements of a row, inlined into the kernels that call it."""
    compiled: Kernel = njit(error_model="numpy", forceinline=True)(function)
    return compiled


def _like(x: Any, value: Any) -> Any:
    """A constant of the type of `x`; `lanes` extends it to vectors."""
    raise NotImplementedError("compiled code only")


@overload(_like, jit_options={"forceinline": True}, strict=False)
def _like_number(x: Any, value: Any) -> Any:
    return (lambda x, value: type(x)(value)) if isinstance(x, types.Float) else None


def surrogate_loop(function: Kernel) -> Kernel:
    """Compile a row loop with the kind of surrogate as first argument, one copy for each kind.

    The kind is a constant in each copy: a branch on it inside the loop would prevent LLVM from
    vectorising the loop.
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
def _at(rows, t: int, i: int, j: int):
    """Features [i, j) of row t, or of the only row of a constant sequence; None for None."""
    if rows is None:
        return None
    return rows[min(t, rows.shape[0] - 1), i:j]


@row_loop
def _part(row, i: int, j: int):
    """Features [i, j) of a row; None for None."""
    if row is None:
        return None
    return row[i:j]


@row_loop
def _unless(given, row):
    """`row` if `given` is None, else None."""
    if given is not None:
        return None
    return row


@row_loop
def _copy(source, target) -> None:
    for n in range(target.size):
        target[n] = source[n]


@row_loop
def _add(source, target) -> None:
    for n in range(target.size):
        target[n] += source[n]


@row_loop
def _count(spikes, count) -> None:
    """Add spikes to a count; either may be None."""
    if spikes is not None and count is not None:
        _add(spikes, count)


@row_loop
def _pack(spikes, words, t: int, i: int, j: int) -> None:
    """Write the spikes of features [i, j), whole words, as the bits of row t.

    spikes: [1, M]. words: [T, M / 64], or None.
    """
    if words is not None:
        for w in range(i >> 6, j >> 6):
            word = NO_BIT
            for n in range(0, 64, LANES):
                word |= not_zero(load(spikes[0], 64 * w + n, zeros_16())) << np.uint64(n)
            words[t, w] = word


@row_loop
def _multiply(factor, target) -> None:
    for n in range(target.size):
        target[n] *= factor[n]


@row_loop
def _add_product(a, b, target) -> None:
    for n in range(target.size):
        target[n] += a[n] * b[n]


@row_loop
def _affine(a, x, b, target) -> None:
    for n in range(target.size):
        target[n] = a[n] * x[n] + b[n]


@row_loop
def _affine_backward(a, before, grad_x, carry, grad_a, grad_b) -> None:
    """One step of the gradients of `_affine`, in one pass over memory; carry is in and out."""
    for n in range(carry.size):
        grad = carry[n] + grad_x[n]
        grad_a[n] = grad * before[n]
        grad_b[n] = grad
        carry[n] = grad * a[n]


@row_loop
def _emit(carry, summed: bool, grad) -> None:
    """Write the gradient of the input at one step, or add it to the sum over all steps."""
    if summed:
        _add(carry, grad)
    else:
        _copy(carry, grad)


@row_loop
def _after_reset(v, theta, fires: bool, zero: bool):
    """Membrane potential after the reset (v - theta equals the reference's v - theta * 1)."""
    return (type(v)(0) if zero else v - theta) if fires else v


@row_loop
def _lif_step(v, current, theta, decay, zero: bool, spikes, membrane) -> None:
    """Advance the membrane potential `v` in place; `spikes` and `membrane` may be None."""
    # Constants have the dtype of the arrays: Python floats would promote float32 to float64.
    yes, no = v.dtype.type(1), v.dtype.type(0)
    for n in range(v.size):
        now = decay * v[n] + current[n]
        fires = now >= theta[n]
        v[n] = _after_reset(now, theta[n], fires, zero)
        if spikes is not None:
            spikes[n] = yes if fires else no
        if membrane is not None:
            membrane[n] = now


@row_loop
def _dual_step(
    v_fast,
    v_slow,
    fast,
    slow,
    theta,
    gamma,
    decay_fast,
    decay_slow,
    zero: bool,
    spikes,
    count_fast,
    count_slow,
    spikes_fast,
    spikes_slow,
    membrane_fast,
    membrane_slow,
) -> None:
    """Advance dual-timescale neurons by one step; merge "gate", or "or" if gamma is None.

    Spikes, counts, branch spikes and membranes may be None.
    """
    yes, no = v_fast.dtype.type(1), v_fast.dtype.type(0)
    for n in range(v_fast.size):
        now_fast, now_slow = decay_fast * v_fast[n] + fast[n], decay_slow * v_slow[n] + slow[n]
        # branch spikes: under merge "gate" they are observed only, and reset nothing
        branch_fast, branch_slow = now_fast >= theta[n], now_slow >= theta[n]
        if gamma is not None:
            fires = gamma[n] * now_fast + (yes - gamma[n]) * now_slow >= theta[n]
            v_fast[n] = _after_reset(now_fast, theta[n], fires, zero)
            v_slow[n] = _after_reset(now_slow, theta[n], fires, zero)
        else:
            fires = branch_fast | branch_slow
            v_fast[n] = _after_reset(now_fast, theta[n], branch_fast, zero)
            v_slow[n] = _after_reset(now_slow, theta[n], branch_slow, zero)
        if spikes is not None:
            spikes[n] = yes if fires else no
        if count_fast is not None:
            count_fast[n] += yes if branch_fast else no
            count_slow[n] += yes if branch_slow else no
        if spikes_fast is not None:
            spikes_fast[n] = yes if branch_fast else no
            spikes_slow[n] = yes if branch_slow else no
        if membrane_fast is not None:
            membrane_fast[n], membrane_slow[n] = now_fast, now_slow


@row_loop
def _sigmoid_derivative(slope, x):
    """Derivative of the sigmoid; exp(-|x|) cannot overflow, and the derivative is even in x."""
    one = type(x)(1)
    e = math.exp(-abs(slope * x))
    return slope * e / ((one + e) * (one + e))


@row_loop
def _through_spike(kind: int, slope, x, grad, sigmoid_derivative):
    """Gradient of x = v - theta through its spike: grad times the surrogate's derivative.

    The formulas are those of `ops.surrogate.surrogate_derivative`. The sigmoid's derivative comes
    as an argument: see `_lif_gradient`.
    """
    one, half_pi = _like(x, ONE), _like(x, HALF_PI)
    if kind == FAST_SIGMOID:
        d = one + abs(slope * x)
        return grad / (d * d)
    if kind == ATAN:
        d = half_pi * slope * x
        return grad * (slope / (one + one) / (one + d * d))
    if kind == TRIANGLE:
        return grad * max(one - abs(slope * x), one - one)  # one - one: a zero of the same dtype
    return grad * sigmoid_derivative


@surrogate_loop
def _lif_gradient(
    kind: int,
    slope,
    membrane,
    theta,
    grad_spikes,
    grad_membrane,
    carry,
    grad,
    decay,
    zero: bool,
    buffer,
) -> None:
    """Gradient of the current, and `carry`: that of the membrane potential of the step before.

    The current's gradient equals the membrane's; leak and reset scale it for the step before, and a
    reset to zero stops it. `grad_membrane` may be None.
    """
    nothing = carry.dtype.type(0)
    if kind == SIGMOID:  # in a loop of its own, because LLVM does not vectorise an exponential
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
    kind: int,
    slope,
    membrane_fast,
    membrane_slow,
    theta,
    gamma,
    grad_spikes,
    carry_fast,
    carry_slow,
    grad_gamma,
    grad_fast,
    grad_slow,
    decay_fast,
    decay_slow,
    zero: bool,
    buffer_fast,
    buffer_slow,
) -> None:
    """`_lif_gradient` for both compartments, and the gradient of gamma under merge "gate"."""
    one, nothing = theta.dtype.type(1), theta.dtype.type(0)
    if kind == SIGMOID:
        for n in range(theta.size):
            v_fast, v_slow = membrane_fast[n], membrane_slow[n]
            if gamma is not None:
                merged = gamma[n] * v_fast + (one - gamma[n]) * v_slow
                buffer_fast[n] = _sigmoid_derivative(slope, merged - theta[n])
            else:
                buffer_fast[n] = _sigmoid_derivative(slope, v_fast - theta[n])
                buffer_slow[n] = _sigmoid_derivative(slope, v_slow - theta[n])
    for n in range(theta.size):
        v_fast, v_slow = membrane_fast[n], membrane_slow[n]
        if gamma is not None:
            merged = gamma[n] * v_fast + (one - gamma[n]) * v_slow
            fires_fast = fires_slow = merged >= theta[n]
            x, grad = merged - theta[n], grad_spikes[n]
            through = _through_spike(kind, slope, x, grad, buffer_fast[n])
            grad_gamma[n] += through * (v_fast - v_slow)
            through_fast, through_slow = gamma[n] * through, (one - gamma[n]) * through
        else:
            fires_fast, fires_slow = v_fast >= theta[n], v_slow >= theta[n]
            x_fast, x_slow, grad = v_fast - theta[n], v_slow - theta[n], grad_spikes[n]
            through_fast = _through_spike(kind, slope, x_fast, grad, buffer_fast[n])
            through_slow = _through_spike(kind, slope, x_slow, grad, buffer_slow[n])
            # ds/ds_fast = 1 - s_slow: a branch spike counts where the other branch is silent
            through_fast = nothing if fires_slow else through_fast
            through_slow = nothing if fires_fast else through_slow
        total_fast = (nothing if zero and fires_fast else carry_fast[n]) + through_fast
        total_slow = (nothing if zero and fires_slow else carry_slow[n]) + through_slow
        grad_fast[n], grad_slow[n] = total_fast, total_slow
        carry_fast[n], carry_slow[n] = decay_fast * total_fast, decay_slow * total_slow


@row_loop
def _narrow_block(steps: int) -> int:
    """Features per block, in whole cache lines, for which `steps` rows fit the scratch memory."""
    return max(16, min(BLOCK, SCRATCH // steps // 16 * 16))  # 16 float32 are a cache line


@kernel
def lif_forward(
    current, theta, v, spikes, count, membrane, decay, zero: bool, start: int, stop: int
) -> None:
    """LIF neurons over a sequence.

    v: [M], in and out. spikes, membrane (or None): [T, M], out. count (or None): [M], zeros in.
    """
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            _lif_step(
                v[i:j],
                _at(current, t, i, j),
                theta[i:j],
                decay,
                zero,
                spikes[t, i:j],
                _at(membrane, t, i, j),
            )
            _count(spikes[t, i:j], _part(count, i, j))


@kernel
def lif_backward(
    current,
    theta,
    v0,
    grad_spikes,
    grad_membrane,
    carry,
    grad_current,
    decay,
    zero: bool,
    kind: int,
    slope,
    steps: int,
    start: int,
    stop: int,
) -> None:
    """Gradients of current and initial state.

    carry: [M], gradient of the last state in, of the initial state out. grad_current: [T, M], out;
    or [1, M], zeros in and the sum over time out. grad_membrane may be None.
    """
    block = _narrow_block(steps)
    membrane, buffers = np.empty((steps, block), theta.dtype), np.empty((2, block), theta.dtype)
    summed = grad_current.shape[0] == 1  # a constant current: its gradient is a sum over time
    for i in range(start, stop, block):
        j = min(i + block, stop)
        v, grad = buffers[0, : j - i], buffers[1, : j - i]
        _copy(v0[i:j], v)
        # First integrate the block again, to get the membrane potential before each reset.
        for t in range(steps):
            _lif_step(v, _at(current, t, i, j), theta[i:j], decay, zero, None, membrane[t, : j - i])
        for t in range(steps - 1, -1, -1):
            out = _at(grad_current, t, i, j)
            _lif_gradient(
                kind,
                slope,
                membrane[t, : j - i],
                theta[i:j],
                _at(grad_spikes, t, i, j),
                _at(grad_membrane, t, i, j),
                carry[i:j],
                grad if summed else out,
                decay,
                zero,
                v,  # free after the integration: the buffer for derivatives of the sigmoid
            )
            if summed:
                _add(grad, out)


@kernel
def dual_lif_forward(
    fast,
    slow,
    theta,
    gamma,
    v_fast,
    v_slow,
    spikes,
    count,
    count_fast,
    count_slow,
    spikes_fast,
    spikes_slow,
    words_fast,
    words_slow,
    membrane_fast,
    membrane_slow,
    decay_fast,
    decay_slow,
    zero: bool,
    start: int,
    stop: int,
) -> None:
    """Dual-timescale neurons over a sequence.

    gamma: [M] for merge "gate", None for "or". v: [M], in and out. counts: [M], zeros in. spikes,
    branch spikes and membranes: [T, M], out. words: [T, M / 64], out, branch spikes of float32
    neurons as bits; those as values then have one row [1, M], which every step overwrites. Each
    pair of the latter three, and count, may be None.
    """
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            # LLVM does not vectorise a loop over all of these arrays: it gives up on checking that
            # so many do not overlap. Recorded spikes are therefore counted in separate loops.
            _dual_step(
                v_fast[i:j],
                v_slow[i:j],
                _at(fast, t, i, j),
                _at(slow, t, i, j),
                theta[i:j],
                _part(gamma, i, j),
                decay_fast,
                decay_slow,
                zero,
                spikes[t, i:j],
                _unless(spikes_fast, count_fast[i:j]),
                _unless(spikes_slow, count_slow[i:j]),
                _at(spikes_fast, t, i, j),
                _at(spikes_slow, t, i, j),
                _at(membrane_fast, t, i, j),
                _at(membrane_slow, t, i, j),
            )
            _count(spikes[t, i:j], _part(count, i, j))
            _count(_at(spikes_fast, t, i, j), count_fast[i:j])
            _count(_at(spikes_slow, t, i, j), count_slow[i:j])
            _pack(spikes_fast, words_fast, t, i, j)
            _pack(spikes_slow, words_slow, t, i, j)


@kernel
def dual_lif_backward(
    fast,
    slow,
    theta,
    gamma,
    v0_fast,
    v0_slow,
    grad_spikes,
    carry_fast,
    carry_slow,
    grad_gamma,
    grad_fast,
    grad_slow,
    decay_fast,
    decay_slow,
    zero: bool,
    kind: int,
    slope,
    steps: int,
    start: int,
    stop: int,
) -> None:
    """Gradients of currents, gamma and initial states; arguments as in `lif_backward`.

    gamma and grad_gamma ([M], zeros in) are None for merge "or".
    """
    block = _narrow_block(2 * steps)
    membranes = np.empty((2, steps, block), theta.dtype)
    buffers = np.empty((4, block), theta.dtype)
    summed_fast, summed_slow = grad_fast.shape[0] == 1, grad_slow.shape[0] == 1
    for i in range(start, stop, block):
        j = min(i + block, stop)
        v_fast, v_slow = buffers[0, : j - i], buffers[1, : j - i]
        sum_fast, sum_slow = buffers[2, : j - i], buffers[3, : j - i]
        _copy(v0_fast[i:j], v_fast)
        _copy(v0_slow[i:j], v_slow)
        for t in range(steps):
            _dual_step(
                v_fast,
                v_slow,
                _at(fast, t, i, j),
                _at(slow, t, i, j),
                theta[i:j],
                _part(gamma, i, j),
                decay_fast,
                decay_slow,
                zero,
                None,
                None,
                None,
                None,
                None,
                membranes[0, t, : j - i],
                membranes[1, t, : j - i],
            )
        for t in range(steps - 1, -1, -1):
            out_fast, out_slow = _at(grad_fast, t, i, j), _at(grad_slow, t, i, j)
            _dual_gradient(
                kind,
                slope,
                membranes[0, t, : j - i],
                membranes[1, t, : j - i],
                theta[i:j],
                _part(gamma, i, j),
                _at(grad_spikes, t, i, j),
                carry_fast[i:j],
                carry_slow[i:j],
                _part(grad_gamma, i, j),
                sum_fast if summed_fast else out_fast,
                sum_slow if summed_slow else out_slow,
                decay_fast,
                decay_slow,
                zero,
                v_fast,
                v_slow,
            )
            if summed_fast:
                _add(sum_fast, out_fast)
            if summed_slow:
                _add(sum_slow, out_slow)


@kernel
def scan_forward(a, b, x0, x, start: int, stop: int) -> None:
    """x[t] = a[t] x[t-1] + b[t]. a, b: [T, M] or [1, M]. x0: [M]. x: [T, M], out."""
    last_a, last_b = a.shape[0] - 1, b.shape[0] - 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        before = x0[i:j]
        for t in range(x.shape[0]):
            _affine(a[min(t, last_a), i:j], before, b[min(t, last_b), i:j], x[t, i:j])
            before = x[t, i:j]


@kernel
def scan_backward(
    a, x, x0, grad_x, carry, grad_a, grad_b, steps: int, start: int, stop: int
) -> None:
    """Gradients of a, b and x0. carry: [M], zeros in, the gradient of x0 out.

    x and grad_a are None if no gradient of a is needed. Gradients with one row, sums over time,
    are zeros in; others are written.
    """
    last_a, last_grad = a.shape[0] - 1, grad_x.shape[0] - 1
    summed = grad_b.shape[0] == 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        carry_row = carry[i:j]
        for t in range(steps - 1, -1, -1):
            if grad_a is not None and grad_a.shape[0] == steps and grad_b.shape[0] == steps:
                before = x[t - 1, i:j] if t > 0 else x0[i:j]
                grads = grad_a[t, i:j], grad_b[t, i:j]
                _affine_backward(
                    a[t, i:j], before, grad_x[min(t, last_grad), i:j], carry_row, *grads
                )
                continue
            _add(grad_x[min(t, last_grad), i:j], carry_row)
            if grad_a is not None:
                # dL/da[t] = dL/dx[t] * x[t-1]; a constant `a` has one row, which is summed over t
                before = x[t - 1, i:j] if t > 0 else x0[i:j]
                _add_product(carry_row, before, grad_a[min(t, grad_a.shape[0] - 1), i:j])
            _emit(carry_row, summed, grad_b[0 if summed else t, i:j])
            _multiply(a[min(t, last_a), i:j], carry_row)
