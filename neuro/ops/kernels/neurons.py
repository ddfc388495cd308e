"""Fused CPU kernels of neurons with two variables and recurrence, compiled by Numba for float32.

The equations are in `ops/neurons.py`. A kernel runs the samples [start, stop) through all steps.
Recurrent input is summed event by event: a spike adds a row of the table [source, target]. Backward
gets the input sums of the forward pass, integrates a group of samples again into scratch memory,
and goes back in time; there the recurrent product is dense, because gradients are. It runs over
panels of the weights, each 16 columns wide, which are read in order.

Coefficients are rows of one array `[7, N]`, in the order of `Dynamics`; one that a neuron does not
have is 0, which changes no value. Operations and their order are those of the reference; gradients
are sums in another order. Conventions as in `spiking` and `events`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from neuro.ops.kernels.spiking import (
    SIGMOID,
    _add,
    _add_product,
    _after_reset,
    _copy,
    _sigmoid_derivative,
    _through_spike,
    kernel,
    row_loop,
    surrogate_loop,
)
from neuro.ops.kernels.vectors import (
    LANES,
    Lanes,
    instruction,
    load,
    lowest,
    plus,
    store,
    zeros_16,
    zeros_32,
    zeros_64,
)

GROUP = 32  # samples that are taken back in time together, to read the weights less often
SCRATCH = 1 << 20  # elements of a thread's scratch memory in backward: 4 MiB
ROWS = 4  # samples of a block of the dense product, whose sums stay in registers
V_LEAK, V_FROM_W, W_LEAK, W_FROM_V, W_FROM_S, READ_V, READ_W = range(7)
# bits of `learned`: coefficients in the equation of v, in that of w, and of the spike
V_GRADIENTS, W_GRADIENTS, READ_GRADIENTS = 1, 2, 4
NO_BIT, ONE_BIT = np.uint64(0), np.uint64(1)


@instruction
def _multiply_add(_: Any, factor: Any, values: Lanes, total: Lanes) -> Any:
    """total + factor * values, rounded once where the processor can; `factor` is a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, lanes = ir.Constant(ir.IntType(32), 0), total.vector
        one = builder.insert_element(ir.Constant(lanes, ir.Undefined), args[0], first)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), total.count), [0] * total.count)
        spread = builder.shuffle_vector(one, one, everywhere)
        product = builder.fmul(spread, args[1], flags=("contract",))
        return builder.fadd(product, args[2], flags=("contract",))

    return total(types.float32, values, total), generate


@row_loop
def _add_rows_of(words, table, width: int, lane: int, totals, like) -> None:
    """Add the table's rows of all set bits to the totals of each sample, from column `lane` on."""
    flat = totals.reshape(-1)
    for r in range(totals.shape[0]):
        total = load(flat, r * width + lane, like)
        for f in range(words.shape[1]):
            events = words[r, f]
            first = 64 * f * width + lane
            while events != NO_BIT:
                row = first + lowest(events) * width
                events &= events - ONE_BIT  # clears the lowest bit
                total = plus(total, load(table, row, like))
        store(total, flat, r * width + lane)


@row_loop
def _add_events(words, table, totals) -> None:
    """Add the rows of `table` [sources * width] that the bits of `words` select to `totals`.

    words: [R, W]. totals: [R, width]. A block of columns is read for all samples before the next:
    it stays in the second-level cache, for which the whole table may be too large.
    """
    width, lane = totals.shape[1], 0
    while lane < width:
        if lane + 64 <= width:
            _add_rows_of(words, table, width, lane, totals, zeros_64())
            lane += 64
        elif lane + 32 <= width:
            _add_rows_of(words, table, width, lane, totals, zeros_32())
            lane += 32
        else:
            _add_rows_of(words, table, width, lane, totals, zeros_16())
            lane += LANES


@row_loop
def _pack(spikes, words) -> None:
    """Pack a row of zeros and ones into bits."""
    for f in range(words.size):
        word = NO_BIT
        for n in range(64 * f, min(64 * f + 64, spikes.size)):
            word |= np.uint64(spikes[n] != 0) << np.uint64(n & 63)
        words[f] = word


@row_loop
def _step(
    v, w, last, x_v, x_w, theta, c, from_new, from_old, zero: bool, both: bool, s, new_v, new_w
) -> None:
    """One step of a row of neurons; v and w in place.

    from_new, from_old: the coefficient of the new or the old w in the equation of v; the other is
    zeros, which change no value. s, new_v and new_w (before the reset): out.
    """
    v_leak, w_leak, w_from_v, w_from_s = c[V_LEAK], c[W_LEAK], c[W_FROM_V], c[W_FROM_S]
    read_v, read_w = c[READ_V], c[READ_W]
    yes, no = theta.dtype.type(1), theta.dtype.type(0)
    for n in range(s.size):
        now_w = w_leak[n] * w[n] + w_from_v[n] * v[n] + w_from_s[n] * last[n] + x_w[n]
        now_v = v_leak[n] * v[n] + from_new[n] * now_w + from_old[n] * w[n] + x_v[n]
        fires = read_v[n] * now_v + read_w[n] * now_w >= theta[n]
        s[n] = yes if fires else no
        new_v[n], new_w[n] = now_v, now_w
        v[n] = _after_reset(now_v, theta[n], fires, zero)
        w[n] = _after_reset(now_w, theta[n], fires & both, zero)


@row_loop
def _step_of(x, t: int, b: int):
    """Row of sample b at step t, or at the only step of a constant sequence."""
    return x[min(t, x.shape[0] - 1), b]


@kernel
def forward(
    x_v,
    x_w,
    coefficients,
    theta,
    table,
    v,
    w,
    s0,
    spikes,
    words,
    sums,
    membrane,
    keep: bool,
    into: int,
    record: bool,
    symplectic: bool,
    zero: bool,
    both: bool,
    start: int,
    stop: int,
) -> None:
    """Recurrent neurons over a sequence.

    x_v, x_w: [T or 1, B, N]; `into` (bits 1: v, 2: w) says which are used. coefficients: [7, N].
    theta: [N]. table: [N * G * P], recurrent weights of G inputs, whose rows are padded to P. v, w:
    [B, N], in and out. s0: [B, N]. spikes: [T, B, N], out. words: [T, B, ceil(N / 64)], the spikes
    of the step before, out. sums: [G, T, B, N], inputs with recurrence, out if `keep`.
    membrane: [T, B, N], v before the reset, out if `record`.
    """
    steps, _, units = spikes.shape
    groups = sums.shape[0]
    padded = (units + LANES - 1) // LANES * LANES
    rows = np.zeros((3, units), np.float32)
    nothing, new_v, new_w, c = rows[0], rows[1], rows[2], coefficients
    from_new = c[V_FROM_W] if symplectic else nothing
    from_old = nothing if symplectic else c[V_FROM_W]
    totals = np.zeros((stop - start, groups * padded), np.float32)
    for t in range(steps):
        before = spikes[t - 1] if t > 0 else s0
        for b in range(start, stop):
            total = totals[b - start]
            if into & 1:
                _copy(_step_of(x_v, t, b), total[:units])
            if into & 2:
                first = (groups - 1) * padded
                _copy(_step_of(x_w, t, b), total[first : first + units])
            _pack(before[b], words[t, b])
        _add_events(words[t, start:stop], table, totals)
        for b in range(start, stop):
            total, first = totals[b - start], (groups - 1) * padded
            in_v = total[:units] if into & 1 else nothing
            in_w = total[first : first + units] if into & 2 else nothing
            if keep:
                for i in range(groups):
                    _copy(totals[b - start, i * padded : i * padded + units], sums[i, t, b])
            state = v[b], w[b], before[b], in_v, in_w
            _step(*state, theta, c, from_new, from_old, zero, both, spikes[t, b], new_v, new_w)
            if record:
                _copy(new_v, membrane[t, b])


@surrogate_loop
def _through(
    kind: int,
    slope,
    new_v,
    new_w,
    theta,
    c,
    from_new,
    zero: bool,
    both: bool,
    direct,
    later,
    carry_v,
    carry_w,
    through,
    total_v,
    total_w,
    buffer,
) -> None:
    """Gradients of the decision variable, and of v and w before the reset.

    `direct` and `later` are gradients of the spikes, from their step and from the one after; a
    reset to zero stops the gradients of v and w (`carry`) from later steps.
    """
    read_v, read_w = c[READ_V], c[READ_W]
    nothing = theta.dtype.type(0)
    if kind == SIGMOID:  # in a loop of its own, because LLVM does not vectorise an exponential
        for n in range(theta.size):
            x = read_v[n] * new_v[n] + read_w[n] * new_w[n] - theta[n]
            buffer[n] = _sigmoid_derivative(slope, x)
    for n in range(theta.size):
        decision = read_v[n] * new_v[n] + read_w[n] * new_w[n]
        stops = zero & (decision >= theta[n])
        x, grad = decision - theta[n], direct[n] + later[n]
        found = _through_spike(kind, slope, x, grad, buffer[n])
        of_v = (nothing if stops else carry_v[n]) + read_v[n] * found
        of_w = (nothing if stops & both else carry_w[n]) + read_w[n] * found
        through[n], total_v[n], total_w[n] = found, of_v, of_w + from_new[n] * of_v


@row_loop
def _carry(total_v, total_w, c, from_old, carry_v, carry_w, later) -> None:
    """Gradients of the state of the step before."""
    v_leak, w_leak, w_from_v, w_from_s = c[V_LEAK], c[W_LEAK], c[W_FROM_V], c[W_FROM_S]
    for n in range(total_v.size):
        carry_v[n] = v_leak[n] * total_v[n] + w_from_v[n] * total_w[n]
        carry_w[n] = w_leak[n] * total_w[n] + from_old[n] * total_v[n]
        later[n] = w_from_s[n] * total_w[n]


@row_loop
def _learn_v(total_v, v, used_w, found) -> None:
    """Add to the gradients of the coefficients in the equation of v."""
    of_leak, of_w = found[V_LEAK], found[V_FROM_W]
    for n in range(total_v.size):
        of_leak[n] += total_v[n] * v[n]
        of_w[n] += total_v[n] * used_w[n]


@row_loop
def _learn_w(total_w, w, v, s, found) -> None:
    """Add to the gradients of the coefficients in the equation of w."""
    of_leak, of_v, of_s = found[W_LEAK], found[W_FROM_V], found[W_FROM_S]
    for n in range(total_w.size):
        of_leak[n] += total_w[n] * w[n]
        of_v[n] += total_w[n] * v[n]
        of_s[n] += total_w[n] * s[n]


@row_loop
def _learn_read(through, new_v, new_w, found) -> None:
    """Add to the gradients of the coefficients of the decision variable."""
    of_v, of_w = found[READ_V], found[READ_W]
    for n in range(through.size):
        of_v[n] += through[n] * new_v[n]
        of_w[n] += through[n] * new_w[n]


@row_loop
def _before(new_v, new_w, s, theta, zero: bool, both: bool, v, w) -> None:
    """v and w after the reset of the step before."""
    for n in range(v.size):
        v[n] = _after_reset(new_v[n], theta[n], s[n] > 0, zero)
        w[n] = _after_reset(new_w[n], theta[n], (s[n] > 0) & both, zero)


@row_loop
def _dense_product(x, panels, target) -> None:
    """target [R, Q] += x [R, K] @ weights, for a multiple R of ROWS.

    panels: the weights [Q / 16, K, 16], flat.
    """
    inner, width = x.shape[1], target.shape[1]
    flat = target.reshape(-1)
    for p in range(width // LANES):
        for r in range(0, x.shape[0], ROWS):
            at = r * width + p * LANES
            a, b = load(flat, at, zeros_16()), load(flat, at + width, zeros_16())
            c = load(flat, at + 2 * width, zeros_16())
            d = load(flat, at + 3 * width, zeros_16())
            for k in range(inner):
                row = load(panels, (p * inner + k) * LANES, a)
                a = _multiply_add(x[r, k], row, a)
                b = _multiply_add(x[r + 1, k], row, b)
                c = _multiply_add(x[r + 2, k], row, c)
                d = _multiply_add(x[r + 3, k], row, d)
            store(a, flat, at)
            store(b, flat, at + width)
            store(c, flat, at + 2 * width)
            store(d, flat, at + 3 * width)


@kernel
def backward(
    sum_v,
    sum_w,
    coefficients,
    theta,
    panels,
    v0,
    w0,
    s0,
    spikes,
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
    size: int,
    start: int,
    stop: int,
) -> None:
    """Gradients of inputs, coefficients and initial states.

    sum_v, sum_w: [T, B, N], inputs with recurrence. panels: recurrent weights
    `[P / 16, G * N, 16]`, flat. grad_spikes, grad_membrane (if `recorded`): [T or 1, B, N].
    carry_v, carry_w, carry_s: [B, N], gradients of the last state in, of the initial state out.
    grad_v, grad_w: [T, B, N], out.
    grad_coefficients: [chunks, 7, N], zeros in; chunk start // size is added to, its rows that
    `learned` selects.
    """
    steps, _, units = spikes.shape
    padded = (units + LANES - 1) // LANES * LANES
    c, found = coefficients, grad_coefficients[start // size]
    group = max(ROWS, min(GROUP, stop - start, SCRATCH // (2 * steps * units)))
    blocks = (group + ROWS - 1) // ROWS * ROWS
    inputs = (into & 1) + (into >> 1)
    history = np.empty((2, steps, group, units), np.float32)
    later = np.zeros((blocks, padded), np.float32)
    sent = np.zeros((blocks, inputs * units), np.float32)
    state_v, state_w = np.empty((group, units), np.float32), np.empty((group, units), np.float32)
    rows = np.zeros((8, units), np.float32)
    nothing, through, buffer, v, w = rows[0], rows[1], rows[2], rows[3], rows[4]
    now = rows[7]
    from_new = c[V_FROM_W] if symplectic else nothing
    from_old = nothing if symplectic else c[V_FROM_W]
    for first in range(start, stop, group):
        count = min(group, stop - first)
        for r in range(count):
            _copy(v0[first + r], state_v[r])
            _copy(w0[first + r], state_w[r])
            _copy(carry_s[first + r], later[r, :units])
        for t in range(steps):
            for r in range(count):
                b = first + r
                last = spikes[t - 1, b] if t > 0 else s0[b]
                in_v = _step_of(sum_v, t, b) if into & 1 else nothing
                in_w = _step_of(sum_w, t, b) if into & 2 else nothing
                new_v, new_w = history[0, t, r], history[1, t, r]
                state = state_v[r], state_w[r], last, in_v, in_w
                _step(*state, theta, c, from_new, from_old, zero, both, now, new_v, new_w)
        for t in range(steps - 1, -1, -1):
            for r in range(count):
                b = first + r
                new_v, new_w = history[0, t, r], history[1, t, r]
                # gradients are written where they are returned
                total_v = grad_v[t, b] if into & 1 else rows[5]
                total_w = grad_w[t, b] if into & 2 else rows[6]
                _through(
                    kind,
                    slope,
                    new_v,
                    new_w,
                    theta,
                    c,
                    nothing if recorded else from_new,
                    zero,
                    both,
                    _step_of(grad_spikes, t, b),
                    later[r, :units],
                    carry_v[b],
                    carry_w[b],
                    through,
                    total_v,
                    total_w,
                    buffer,
                )
                if recorded:
                    _add(_step_of(grad_membrane, t, b), total_v)
                    _add_product(from_new, total_v, total_w)
                if learned != 0:
                    before = spikes[t - 1, b] if t > 0 else s0[b]
                    if t > 0:
                        earlier = history[0, t - 1, r], history[1, t - 1, r]
                        _before(*earlier, before, theta, zero, both, v, w)
                    else:
                        _copy(v0[b], v)
                        _copy(w0[b], w)
                    if learned & V_GRADIENTS:
                        _learn_v(total_v, v, new_w if symplectic else w, found)
                    if learned & W_GRADIENTS:
                        _learn_w(total_w, w, v, before, found)
                    if learned & READ_GRADIENTS:
                        _learn_read(through, new_v, new_w, found)
                if into & 1:
                    _copy(total_v, sent[r, :units])
                if into & 2:
                    _copy(total_w, sent[r, (inputs - 1) * units :])
                _carry(total_v, total_w, c, from_old, carry_v[b], carry_w[b], later[r, :units])
            _dense_product(sent, panels, later)
        for r in range(count):
            _copy(later[r, :units], carry_s[first + r])
