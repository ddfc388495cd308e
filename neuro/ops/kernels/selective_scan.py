"""Fused CPU kernels of the selective scan, compiled by Numba for float32 and cached on disk.

Layout: features D in the last dimension of every tensor, so that vector instructions work on
neighbouring features; the N states of a feature are N rows. A unit of work is one sample of the
batch and one block of features, through all steps; units share nothing that they write. Results
do not depend on the number of threads.

Forward keeps the states of every `SPAN`-th step. Backward integrates one span again into scratch
memory that stays in the cache, then runs through it in reverse: with all states in memory it would
read N values per feature and step instead of computing them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from neuro.ops.kernels.dendrite import LOG2_E, _exp2, row_loop
from neuro.ops.kernels.spiking import Kernel, _add_product, _copy, _multiply, kernel

BLOCK = 64  # features per unit; two spans of 16 states fit a second-level cache
SPAN = 16  # steps between the states that forward keeps


def sum_loop(function: Kernel) -> Kernel:
    """As `row_loop`; sums may be taken in any order, or LLVM would not vectorise them."""
    compiled: Kernel = njit(
        error_model="numpy", forceinline=True, fastmath={"contract", "reassoc"}
    )(function)
    return compiled


@row_loop
def _product(a, b, target) -> None:
    for w in range(target.size):
        target[w] = a[w] * b[w]


@row_loop
def _advance(dt, a, drive, b, c, h, y) -> None:
    """One step of one state of each feature; h and y are updated in place."""
    for w in range(h.size):
        h[w] = _exp2(LOG2_E * dt[w] * a[w]) * h[w] + drive[w] * b
        y[w] += c * h[w]


@row_loop
def _again(dt, a, drive, b, before, decay, h) -> None:
    """`_advance` without output; decay and state are kept for the backward pass."""
    for w in range(h.size):
        decay[w] = _exp2(LOG2_E * dt[w] * a[w])
        h[w] = decay[w] * before[w] + drive[w] * b


@sum_loop
def _dot(a, b):
    total = np.float32(0)
    for w in range(a.size):
        total += a[w] * b[w]
    return total


@row_loop
def _add_scaled(factor, source, target) -> None:
    for w in range(target.size):
        target[w] += factor * source[w]


@row_loop
def _through_drive(grad_drive, dt, u, skip, grad_y, grad_u, grad_dt) -> None:
    for w in range(dt.size):
        grad_u[w] = grad_drive[w] * dt[w] + skip[w] * grad_y[w]
        grad_dt[w] += grad_drive[w] * u[w]


@kernel
def scan_forward(u, dt, a, b, c, skip, h, kept, y, start: int, stop: int) -> None:
    """Selective scan of units [start, stop).

    u, dt, y: [T, B, D]. a: [N, D]. b, c: [T, B, N]. skip: [D]. h: [B, N, D], in and out.
    kept: [ceil(T / SPAN), B, N, D], out, or None.
    """
    steps, batch, width = u.shape
    drive_row = np.empty(BLOCK, np.float32)
    for unit in range(start, stop):
        s, i = unit % batch, unit // batch * BLOCK
        j = min(i + BLOCK, width)
        drive = drive_row[: j - i]
        for t in range(steps):
            if kept is not None and t % SPAN == 0:
                for n in range(a.shape[0]):
                    _copy(h[s, n, i:j], kept[t // SPAN, s, n, i:j])
            _product(dt[t, s, i:j], u[t, s, i:j], drive)
            _product(skip[i:j], u[t, s, i:j], y[t, s, i:j])
            for n in range(a.shape[0]):
                _advance(
                    dt[t, s, i:j],
                    a[n, i:j],
                    drive,
                    b[t, s, n],
                    c[t, s, n],
                    h[s, n, i:j],
                    y[t, s, i:j],
                )


@kernel
def scan_backward(
    u,
    dt,
    a,
    b,
    c,
    skip,
    kept,
    grad_y,
    carry,
    grad_u,
    grad_dt,
    grad_a,
    grad_b,
    grad_c,
    grad_skip,
    start: int,
    stop: int,
) -> None:
    """Gradients of all inputs, for units [start, stop).

    carry: [B, N, D], gradient of the last state in, of the initial state out. grad_a: [B, N, D] and
    grad_skip: [B, D], zeros in; their sums over the batch are the gradients. grad_b, grad_c:
    [blocks, T, B, N], out; their sums over blocks of features are the gradients.
    """
    steps, batch, width = u.shape
    states = a.shape[0]
    # rows of the last index 0 hold the state before the span
    trace = np.empty((SPAN + 1, states, BLOCK), np.float32)
    decays = np.empty((SPAN, states, BLOCK), np.float32)
    rows = np.empty((3, BLOCK), np.float32)
    for unit in range(start, stop):
        s, block = unit % batch, unit // batch
        i, j = block * BLOCK, min(block * BLOCK + BLOCK, width)
        size = j - i
        drive, grad_drive, through = rows[0, :size], rows[1, :size], rows[2, :size]
        for first in range((steps - 1) // SPAN * SPAN, -1, -SPAN):
            end = min(first + SPAN, steps)
            for n in range(states):
                _copy(kept[first // SPAN, s, n, i:j], trace[0, n, :size])
            for t in range(first, end):
                _product(dt[t, s, i:j], u[t, s, i:j], drive)
                for n in range(states):
                    _again(
                        dt[t, s, i:j],
                        a[n, i:j],
                        drive,
                        b[t, s, n],
                        trace[t - first, n, :size],
                        decays[t - first, n, :size],
                        trace[t - first + 1, n, :size],
                    )
            for t in range(end - 1, first - 1, -1):
                _product(dt[t, s, i:j], u[t, s, i:j], drive)
                grad_drive[:] = 0
                grad_dt[t, s, i:j] = 0
                _add_product(grad_y[t, s, i:j], u[t, s, i:j], grad_skip[s, i:j])
                for n in range(states):
                    grad = carry[s, n, i:j]
                    _add_scaled(c[t, s, n], grad_y[t, s, i:j], grad)
                    grad_c[block, t, s, n] = _dot(grad_y[t, s, i:j], trace[t - first + 1, n, :size])
                    grad_b[block, t, s, n] = _dot(grad, drive)
                    _add_scaled(b[t, s, n], grad, grad_drive)
                    # in separate loops: LLVM does not vectorise one over this many arrays
                    _multiply(decays[t - first, n, :size], grad)
                    _product(grad, trace[t - first, n, :size], through)
                    _add_product(through, a[n, i:j], grad_dt[t, s, i:j])
                    _add_product(through, dt[t, s, i:j], grad_a[s, n, i:j])
                _through_drive(
                    grad_drive,
                    dt[t, s, i:j],
                    u[t, s, i:j],
                    skip[i:j],
                    grad_y[t, s, i:j],
                    grad_u[t, s, i:j],
                    grad_dt[t, s, i:j],
                )
