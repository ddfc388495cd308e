"""Fused CPU kernels of closed-form continuous-time cells, compiled by Numba for float32.

A kernel runs the samples [start, stop) of a batch through all steps, matrix products included: for
the small products of one step, a call of a BLAS library per step and thread costs more than the
product. Products run over four rows of the weights at a time, which then stay in the first-level
cache for all samples. Backward returns the gradients of preactivations at all steps; those of
weights follow from them by one large product outside.

The parts of a cell's heads lie beside each other in the last dimension, `[f1, f2, gate]`, or
`[f1, f2, a, b]` where elapsed times are given. `heads` is replaced in place by their values; the
gate's take the place of the last part.
"""

from __future__ import annotations

import numpy as np

from neuro.ops.kernels.dendrite import LOG2_E, ONE, ZERO, _exp2, _tanh, row_loop
from neuro.ops.kernels.spiking import _add, _copy, kernel

LECUN_TANH, TANH, RELU = range(3)
# 1.7159 tanh(2/3 x) (LeCun et al. 1998), with the constants of the package ncps
LECUN_SCALE, LECUN_SLOPE = np.float32(1.7159), np.float32(0.666)


@row_loop
def _add_four(a, b, c, d, first, second, third, fourth, target) -> None:
    for n in range(target.size):
        target[n] += a * first[n] + b * second[n] + c * third[n] + d * fourth[n]


@row_loop
def _add_one(factor, source, target) -> None:
    for n in range(target.size):
        target[n] += factor * source[n]


@row_loop
def _add_matmul(x, w, target) -> None:
    """target += x @ w for x `[R, K]`, w `[K, N]`."""
    inner = x.shape[1]
    whole = inner // 4 * 4
    for k in range(0, whole, 4):
        for r in range(x.shape[0]):
            _add_four(
                x[r, k],
                x[r, k + 1],
                x[r, k + 2],
                x[r, k + 3],
                w[k],
                w[k + 1],
                w[k + 2],
                w[k + 3],
                target[r],
            )
    for k in range(whole, inner):
        for r in range(x.shape[0]):
            _add_one(x[r, k], w[k], target[r])


@row_loop
def _tanh_row(scale, slope, row) -> None:
    for n in range(row.size):
        row[n] = scale * _tanh(slope * row[n])


@row_loop
def _relu_row(row) -> None:
    for n in range(row.size):
        row[n] = max(row[n], ZERO)


@row_loop
def _activate(kind: int, row) -> None:
    if kind == RELU:
        _relu_row(row)
    elif kind == TANH:
        _tanh_row(ONE, ONE, row)
    else:
        _tanh_row(LECUN_SCALE, LECUN_SLOPE, row)


@row_loop
def _through_tanh(scale, slope, y, grad) -> None:
    """The derivative from the value y = scale tanh(slope x): slope (scale - y^2 / scale)."""
    per_scale = slope / scale
    for n in range(y.size):
        grad[n] *= slope * scale - y[n] * y[n] * per_scale


@row_loop
def _through_relu(y, grad) -> None:
    for n in range(y.size):
        grad[n] = grad[n] if y[n] > ZERO else ZERO


@row_loop
def _through_activation(kind: int, y, grad) -> None:
    if kind == RELU:
        _through_relu(y, grad)
    elif kind == TANH:
        _through_tanh(ONE, ONE, y, grad)
    else:
        _through_tanh(LECUN_SCALE, LECUN_SLOPE, y, grad)


@row_loop
def _elapse(a, times, b) -> None:
    for n in range(b.size):
        b[n] += a[n] * times[n]


@row_loop
def _sigmoid_row(row) -> None:
    for n in range(row.size):
        row[n] = ONE / (ONE + _exp2(-LOG2_E * row[n]))


@row_loop
def _blend(f1, f2, gate, h) -> None:
    for n in range(h.size):
        h[n] = f1[n] + gate[n] * (f2[n] - f1[n])


@row_loop
def _combine(f1, f2, gate, h) -> None:
    for n in range(h.size):
        h[n] = f1[n] + gate[n] * f2[n]


@row_loop
def _first_gradient(gated: bool, grad, gate, f1, out) -> None:
    rest = ONE if gated else ZERO
    for n in range(out.size):
        out[n] = grad[n] * (ONE - rest * gate[n]) * (ONE - f1[n] * f1[n])


@row_loop
def _second_gradient(grad, gate, f2, out) -> None:
    for n in range(out.size):
        out[n] = grad[n] * gate[n] * (ONE - f2[n] * f2[n])


@row_loop
def _gate_gradient(gated: bool, grad, gate, f1, f2, out) -> None:
    rest = ONE if gated else ZERO
    for n in range(out.size):
        out[n] = grad[n] * (f2[n] - rest * f1[n]) * gate[n] * (ONE - gate[n])


@row_loop
def _product(a, b, target) -> None:
    for n in range(target.size):
        target[n] = a[n] * b[n]


@kernel
def cfc_forward(
    drive,
    h0,
    recurrent,
    weight,
    bias,
    times,
    hidden,
    heads,
    h,
    gated: bool,
    backbone: bool,
    kind: int,
    start: int,
    stop: int,
) -> None:
    """Cells of the samples [start, stop) over a sequence.

    With a backbone: drive `[T, B, K]`; recurrent `[H, K]`; weight `[K, G]`; bias `[G]`; hidden
    `[T, B, K]`, out. Without: drive `[T, B, G]`; weight `[H, G]`; recurrent, bias, hidden unused.
    times: `[T, B, H]`, read if G = 4 H. heads: `[T, B, G]`, out. h: `[T, B, H]`, out.
    """
    steps, _, units = h.shape
    timed = heads.shape[2] == 4 * units
    last = heads.shape[2] - units  # where the gate begins
    for t in range(steps):
        before = h0[start:stop] if t == 0 else h[t - 1, start:stop]
        now = heads[t, start:stop]
        if backbone:
            z = hidden[t, start:stop]
            for r in range(stop - start):
                _copy(drive[t, start + r], z[r])
                _copy(bias, now[r])
            _add_matmul(before, recurrent, z)
            for r in range(stop - start):
                _activate(kind, z[r])
            _add_matmul(z, weight, now)
        else:
            for r in range(stop - start):
                _copy(drive[t, start + r], now[r])
            _add_matmul(before, weight, now)
        for r in range(stop - start):
            row = now[r]
            _tanh_row(ONE, ONE, row[: 2 * units])
            if timed:
                _elapse(row[2 * units : last], times[t, start + r], row[last:])
            _sigmoid_row(row[last:])
            if gated:
                _blend(row[:units], row[units : 2 * units], row[last:], h[t, start + r])
            else:
                _combine(row[:units], row[units : 2 * units], row[last:], h[t, start + r])


@kernel
def cfc_backward(
    recurrent,
    weight,
    times,
    hidden,
    heads,
    grad_h,
    carry,
    grad_drive,
    grad_heads,
    grad_times,
    gated: bool,
    backbone: bool,
    kind: int,
    start: int,
    stop: int,
) -> None:
    """Gradients of preactivations, for the samples [start, stop).

    recurrent `[K, H]` and weight `[G, K]` (`[G, H]` without a backbone) are the transposes of those
    of the forward pass. carry: `[B, H]`, zeros in, gradient of the initial state out. grad_drive
    `[T, B, K]` (unused without a backbone, where grad_heads is the gradient of the drive),
    grad_heads `[T, B, G]` and grad_times `[T, B, H]` (if G = 4 H): out.
    """
    steps, _, units = grad_h.shape
    timed = heads.shape[2] == 4 * units
    last = heads.shape[2] - units
    for t in range(steps - 1, -1, -1):
        found = grad_heads[t, start:stop]
        for r in range(stop - start):
            s = start + r
            grad, row, out = carry[s], heads[t, s], found[r]
            _add(grad_h[t, s], grad)
            f1, f2, gate = row[:units], row[units : 2 * units], row[last:]
            _first_gradient(gated, grad, gate, f1, out[:units])
            _second_gradient(grad, gate, f2, out[units : 2 * units])
            _gate_gradient(gated, grad, gate, f1, f2, out[last:])
            if timed:
                _product(out[last:], times[t, s], out[2 * units : last])
                _product(out[last:], row[2 * units : last], grad_times[t, s])
            grad[:] = 0
        if backbone:
            through = grad_drive[t, start:stop]
            through[:] = 0
            _add_matmul(found, weight, through)
            for r in range(stop - start):
                _through_activation(kind, hidden[t, start + r], through[r])
            _add_matmul(through, recurrent, carry[start:stop])
        else:
            _add_matmul(found, weight, carry[start:stop])
