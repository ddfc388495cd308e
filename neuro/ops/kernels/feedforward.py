"""Fused CPU kernels of neurons with two variables and without recurrence; see `neurons`.

Row by row, most of the time goes into reading and writing rows of the cache, because coefficients
are rows as long as the state. Here a step is computed for 16 neurons at a time, whose temporary
values stay in registers. Rows are read as a whole, one sample after the other: parts of several
samples together would share each read of the coefficients, but are far apart in memory, which costs
twice what it saves.

Names of inputs, states and coefficients `c` stand for the addresses of their rows `[B, N]` of one
step; `like` is a vector of 16 values or a single one. Backward is in `feedforward_gradient`.
"""

from __future__ import annotations

import numpy as np

from neuro.ops.kernels.lanes import read, where, write
from neuro.ops.kernels.neurons import READ_V, READ_W, V_FROM_W, V_LEAK, W_FROM_S, W_FROM_V, W_LEAK
from neuro.ops.kernels.spiking import BLOCK, _like, kernel, row_loop
from neuro.ops.kernels.vectors import LANES, zeros_16

ZERO, ONE = np.float32(0), np.float32(1)
THETA = 7  # row of the threshold, behind those of the coefficients


@row_loop
def _step_address(x, t: int):
    """Address of the rows of step t, or of the only step of a constant sequence."""
    return x[min(t, len(x) - 1)].ctypes.data


@row_loop
def _advanced(v, w, s, x_v, x_w, c, units: int, at: int, n: int, into: int, symplectic: bool, like):
    """v and w of the next step, before the reset."""
    in_v = read(x_v, at, like) if into & 1 else _like(like, ZERO)
    in_w = read(x_w, at, like) if into & 2 else _like(like, ZERO)
    w_leak, w_from_v = read(c, W_LEAK * units + n, like), read(c, W_FROM_V * units + n, like)
    v_leak, v_from_w = read(c, V_LEAK * units + n, like), read(c, V_FROM_W * units + n, like)
    now_w = w_leak * w + w_from_v * v + read(c, W_FROM_S * units + n, like) * s + in_w
    return v_leak * v + v_from_w * (now_w if symplectic else w) + in_v, now_w


@row_loop
def _reads_v(coefficients) -> bool:
    """Whether v alone decides on the spikes of all neurons, as it does in most models."""
    return (coefficients[READ_V] == ONE).all() and (coefficients[READ_W] == ZERO).all()


@row_loop
def _decision(v, w, c, units: int, n: int, plain: bool, like):
    """What is compared with the threshold; v if `plain`."""
    if plain:
        return v
    return read(c, READ_V * units + n, like) * v + read(c, READ_W * units + n, like) * w


@row_loop
def _reset(v, w, c, units: int, n: int, plain: bool, zero: bool, both: bool, like):
    """v, w and the spikes after a step."""
    theta, nothing = read(c, THETA * units + n, like), _like(like, ZERO)
    fires = _decision(v, w, c, units, n, plain, like) >= theta
    after_v = where(fires, nothing if zero else v - theta, v)
    after_w = where(fires, nothing if zero else w - theta, w) if both else w
    return after_v, after_w, where(fires, _like(like, ONE), nothing)


@row_loop
def _forward_at(
    x, c, units: int, v, w, s, spikes, membrane, record: bool, flags, b: int, n: int, like
):
    """One step of sample b."""
    into, symplectic, plain, zero, both = flags
    at = b * units + n
    state = read(v, at, like), read(w, at, like), read(s, at, like)
    now_v, now_w = _advanced(*state, *x, c, units, at, n, into, symplectic, like)
    after_v, after_w, fired = _reset(now_v, now_w, c, units, n, plain, zero, both, like)
    write(after_v, v, at)
    write(after_w, w, at)
    write(fired, spikes, at)
    if record:
        write(now_v, membrane, at)


@kernel
def forward(
    x_v,
    x_w,
    coefficients,
    v,
    w,
    s0,
    spikes,
    membrane,
    into: int,
    record: bool,
    symplectic: bool,
    zero: bool,
    both: bool,
    start: int,
    stop: int,
) -> None:
    """Neurons over a sequence.

    coefficients: [8, N], those of `neurons.forward` and the threshold. Others as there.
    """
    steps, _, units = spikes.shape
    whole = units // LANES * LANES
    flags = into, symplectic, _reads_v(coefficients), zero, both
    group = max(1, BLOCK // units)
    for first in range(start, stop, group):
        for t in range(steps):
            x = _step_address(x_v, t), _step_address(x_w, t)
            rows = coefficients.ctypes.data, units, v.ctypes.data, w.ctypes.data
            before = s0.ctypes.data if t == 0 else spikes[t - 1].ctypes.data
            found = before, spikes[t].ctypes.data, _step_address(membrane, t), record, flags
            for b in range(first, min(first + group, stop)):
                for n in range(0, whole, LANES):
                    _forward_at(x, *rows, *found, b, n, zeros_16())
                for n in range(whole, units):
                    _forward_at(x, *rows, *found, b, n, ZERO)
