"""Gradients of the kernels in `feedforward`, whose conventions hold here.

A group of samples is integrated again, into scratch memory that stays in the cache; then all
gradients of a step are computed in one pass over it. Several samples in turn for each 16 neurons
would read coefficients and sums less often, but took 15 (two samples) to 50 % (four) longer, and
blocks of 512 neurons 40 % longer, because their rows lie on more pages of memory. Two steps at once
and fused multiply-add gained nothing: the time is that of reading rows from the caches.
"""

from __future__ import annotations

import numpy as np

from neuro.ops.kernels.feedforward import (
    THETA,
    ZERO,
    _advanced,
    _decision,
    _reads_v,
    _reset,
    _step_address,
)
from neuro.ops.kernels.lanes import read, where, write
from neuro.ops.kernels.neurons import (
    READ_GRADIENTS,
    READ_V,
    READ_W,
    SCRATCH,
    V_FROM_W,
    V_GRADIENTS,
    V_LEAK,
    W_FROM_S,
    W_FROM_V,
    W_GRADIENTS,
    W_LEAK,
)
from neuro.ops.kernels.spiking import (
    BLOCK,
    SIGMOID,
    _like,
    _sigmoid_derivative,
    _through_spike,
    kernel,
    row_loop,
    surrogate_loop,
)
from neuro.ops.kernels.vectors import LANES, zeros_16


@row_loop
def _before(before, c, units: int, own: int, n: int, plain: bool, zero: bool, both: bool, like):
    """State and spikes after the step before, from v and w before its reset.

    before: v, w, the initial spikes, and whether v and w are the initial state.
    """
    v, w = read(before[0], own, like), read(before[1], own, like)
    if before[3]:
        return v, w, read(before[2], own, like)
    return _reset(v, w, c, units, n, plain, zero, both, like)


@row_loop
def _replay_at(x, c, units: int, before, now, flags, b: int, r: int, n: int, like) -> None:
    """v and w before the reset of one step of sample b, row r of its group."""
    into, symplectic, plain, zero, both = flags
    own = r * units + n
    state = _before(before, c, units, own, n, plain, zero, both, like)
    v, w = _advanced(*state, *x, c, units, b * units + n, n, into, symplectic, like)
    write(v, now[0], own)
    write(w, now[1], own)


@row_loop
def _add(values, address, index: int) -> None:
    write(read(address, index, values) + values, address, index)


@row_loop
def _backward_at(
    kind: int,
    slope,
    c,
    units: int,
    before,
    now,
    grads,
    carry,
    out,
    found,
    buffer,
    flags,
    learned: int,
    b: int,
    r: int,
    n: int,
    like,
) -> None:
    """Gradients of one step of sample b, row r of its group.

    grads: of spikes and membrane, and whether there is the latter. carry: gradients of v, w and s,
    of this step in and of the step before out. out: gradients of the inputs, and whether to add.
    """
    into, symplectic, plain, zero, both = flags
    at, own, nothing = b * units + n, r * units + n, _like(like, ZERO)
    v, w = read(now[0], own, like), read(now[1], own, like)
    theta = read(c, THETA * units + n, like)
    decision = _decision(v, w, c, units, n, plain, like)
    if kind == SIGMOID:  # value by value: there is no exponential of vectors
        write(decision - theta, buffer, 0)
        for i in range(LANES):
            write(_sigmoid_derivative(slope, read(buffer, i, ZERO)), buffer, i)
    of_s = read(grads[0], at, like) + read(carry[2], at, like)
    through = _through_spike(kind, slope, decision - theta, of_s, read(buffer, 0, like))
    of_v, of_w = read(carry[0], at, like), read(carry[1], at, like)
    if zero:  # a reset to zero stops the gradients from later steps
        fires = decision >= theta
        of_v = where(fires, nothing, of_v)
        of_w = where(fires, nothing, of_w) if both else of_w
    of_v = of_v + (through if plain else read(c, READ_V * units + n, like) * through)
    if grads[2]:
        of_v = of_v + read(grads[1], at, like)
    if not plain:
        of_w = of_w + read(c, READ_W * units + n, like) * through
    v_from_w = read(c, V_FROM_W * units + n, like)
    if symplectic:
        of_w = of_w + v_from_w * of_v
    if learned != 0:
        last_v, last_w, last_s = _before(before, c, units, own, n, plain, zero, both, like)
        if learned & V_GRADIENTS:
            _add(of_v * last_v, found, V_LEAK * units + n)
            _add(of_v * (w if symplectic else last_w), found, V_FROM_W * units + n)
        if learned & W_GRADIENTS:
            _add(of_w * last_w, found, W_LEAK * units + n)
            _add(of_w * last_v, found, W_FROM_V * units + n)
            _add(of_w * last_s, found, W_FROM_S * units + n)
        if learned & READ_GRADIENTS:
            _add(through * v, found, READ_V * units + n)
            _add(through * w, found, READ_W * units + n)
    if into & 1:
        write(of_v + read(out[0], at, like) if out[2] else of_v, out[0], at)
    if into & 2:
        write(of_w + read(out[1], at, like) if out[3] else of_w, out[1], at)
    earlier_w = read(c, W_LEAK * units + n, like) * of_w
    w_from_v = read(c, W_FROM_V * units + n, like)
    write(read(c, V_LEAK * units + n, like) * of_v + w_from_v * of_w, carry[0], at)
    write(earlier_w if symplectic else earlier_w + v_from_w * of_v, carry[1], at)
    write(read(c, W_FROM_S * units + n, like) * of_w, carry[2], at)


@surrogate_loop
def _backward_row(
    kind: int, slope, c, units: int, rows, flags, learned: int, b: int, r: int
) -> None:
    whole = units // LANES * LANES
    for n in range(0, whole, LANES):
        _backward_at(kind, slope, c, units, *rows, flags, learned, b, r, n, zeros_16())
    for n in range(whole, units):
        _backward_at(kind, slope, c, units, *rows, flags, learned, b, r, n, ZERO)


@kernel
def backward(
    x_v,
    x_w,
    coefficients,
    v0,
    w0,
    s0,
    grad_spikes,
    grad_membrane,
    carry_v,
    carry_w,
    carry_s,
    grad_v,
    grad_w,
    grad_coefficients,
    into: int,
    learned: int,
    recorded: bool,
    symplectic: bool,
    zero: bool,
    both: bool,
    kind: int,
    slope,
    steps: int,
    size: int,
    start: int,
    stop: int,
) -> None:
    """Gradients of inputs, coefficients and initial states.

    coefficients as in `forward`; others as in `neurons.backward`. grad_v, grad_w: [T, B, N], out;
    or [1, B, N] for a constant input, zeros in and the sum over time out.
    """
    units = coefficients.shape[1]
    whole = units // LANES * LANES
    group = max(1, min(BLOCK, SCRATCH // (2 * steps)) // units)
    history, buffer = np.empty((2, steps, group * units), np.float32), np.empty(LANES, np.float32)
    flags = into, symplectic, _reads_v(coefficients), zero, both
    for first in range(start, stop, group):
        end = min(first + group, stop)
        for backwards in range(2):  # v and w of all steps first, then gradients
            for i in range(steps):
                t = steps - 1 - i if backwards else i
                # addresses are taken where they are used, which keeps the arrays alive until then
                c, s = coefficients.ctypes.data, s0[first].ctypes.data
                now = history[0, t].ctypes.data, history[1, t].ctypes.data
                if t > 0:
                    last = history[0, t - 1].ctypes.data, history[1, t - 1].ctypes.data
                else:
                    last = v0[first].ctypes.data, w0[first].ctypes.data
                before = last[0], last[1], s, t == 0
                if not backwards:
                    x = _step_address(x_v, t), _step_address(x_w, t)
                    for b in range(first, end):
                        r = b - first
                        for n in range(0, whole, LANES):
                            _replay_at(x, c, units, before, now, flags, b, r, n, zeros_16())
                        for n in range(whole, units):
                            _replay_at(x, c, units, before, now, flags, b, r, n, ZERO)
                    continue
                grads = _step_address(grad_spikes, t), _step_address(grad_membrane, t), recorded
                carry = carry_v.ctypes.data, carry_w.ctypes.data, carry_s.ctypes.data
                out = _step_address(grad_v, t), _step_address(grad_w, t)
                found = grad_coefficients[start // size].ctypes.data
                rows = (
                    before,
                    now,
                    grads,
                    carry,
                    (out[0], out[1], len(grad_v) < steps, len(grad_w) < steps),
                    found,
                    buffer.ctypes.data,
                )
                for b in range(first, end):
                    _backward_row(kind, slope, c, units, rows, flags, learned, b, b - first)
