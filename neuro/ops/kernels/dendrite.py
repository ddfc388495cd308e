"""The fused kernels of dendrites for the CPU, in float32; layout and habits of `spiking`.

A source function costs up to six exponentials and logarithms per dendrite and step. Those of the
standard library are calls that keep LLVM from vectorising a loop, so short polynomials take their
place, fitted at Chebyshev points: `_exp2` and `_sin_pi` are right to 2e-7 of their value, `_log2`
to 1e-7 of its value, or of 2 where it is smaller. Powers are exp2(y log2(x)). A product and a sum
may be fused, which saves a fifth of the time. float64 and other devices take the torch loops of
`dendrite_torch`.

There is one kernel per source, since a source chosen inside the loop would not be vectorised.
Backward kernels go once through the sequence, from the inputs and the states alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from neuro.ops import sources
from neuro.ops.kernels.spiking import Kernel, _add, _add_product, _at, _emit, kernel
from neuro.ops.squid import I_CELLS, I_MAX, I_MIN, PHI_CELLS, PHI_MAX

BLOCK = 1 << 11  # dendrites; rows of a block stay in the first-level cache between loops
FITTED, TABLE, TANH_GAUSS, TANH, RELU, TELU, GELU = range(7)

f32, i32 = np.float32, np.int32
ZERO, HALF, ONE, TWO, PI = f32(0), f32(0.5), f32(1), f32(2), f32(math.pi)
ROUND = f32(3 << 22)  # x + ROUND has no bits below 1: its last bits are x rounded
LOG2_E, LN_2 = f32(math.log2(math.e)), f32(math.log(2))

# 2^x on [-1/2, 1/2]
E0, E1, E2 = f32(1.0), f32(0.6931472067106197), f32(0.24022651213595175)
E3, E4 = f32(0.055503272142097416), f32(0.00961802560295849)
E5, E6 = f32(0.0013400432165185502), f32(0.0001546973197733682)
LOWEST, HIGHEST = f32(-126), f32(126)  # exponents of normal numbers
# log2((1 + u) / (1 - u)) / u in u^2, for mantissas from sqrt(1/2) to sqrt(2)
L0, L1 = f32(2.8853900797912084), f32(0.9617988462471083)
L2, L3 = f32(0.5767145103510188), f32(0.4317330160306698)
ROOT_HALF = i32(0x3F3504F3)  # the bits of sqrt(1/2)
MANTISSA = i32(23)  # bits
# sin(pi x) / x in x^2, on [-1/2, 1/2]
S0, S1, S2 = f32(3.14159264), f32(-5.16771008), f32(2.55007752)
S3, S4 = f32(-0.59829129), f32(0.07765766)

A, B, C, EPS = f32(sources.A), f32(sources.B), f32(sources.C), f32(sources.EPS)
K, M, PER_N = f32(sources.K), f32(sources.M), f32(1 / sources.N)
STEEPNESS = f32(sources.STEEPNESS)
R, Q = f32(sources.R), f32(sources.Q)
GELU_SLOPE, SATURATED = f32(sources.GELU_SLOPE), f32(sources.SATURATED)
CLAMP_LOW, CLAMP_HIGH = f32(sources.CLAMP_LOW), f32(sources.CLAMP_HIGH)
PER_VARIANCE = f32(sources.WIDTH**-2)

TABLE_LOW, TABLE_HIGH = f32(I_MIN), f32(I_MAX)
PER_I, PER_PHI = f32(I_CELLS / (I_MAX - I_MIN)), f32(PHI_CELLS / PHI_MAX)
LAST_ROW, LAST_COLUMN, ROW = i32(I_CELLS - 1), i32(PHI_CELLS - 1), i32(PHI_CELLS + 1)
NONE, NEXT = i32(0), np.uint32(1)


def row_loop(function: Kernel) -> Kernel:
    """As that of `spiking`, but free to fuse a product and a sum."""
    fusing = njit(error_model="numpy", forceinline=True, fastmath={"contract"})
    compiled: Kernel = fusing(function)
    return compiled


@row_loop
def _rounded(x: Any) -> Any:
    return f32(x + ROUND) - ROUND


@row_loop
def _exp2(x: Any) -> Any:
    x = min(max(x, LOWEST), HIGHEST)
    shifted = f32(x + ROUND)
    x -= shifted - ROUND
    mantissa = f32(E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * E6))))))
    exponent = i32(shifted.view(np.int32) << MANTISSA)
    return i32(mantissa.view(np.int32) + exponent).view(np.float32)


@row_loop
def _log2(x: Any) -> Any:
    """Of a normal positive number."""
    bits = f32(x).view(np.int32)
    exponent = i32(i32(bits - ROOT_HALF) >> MANTISSA)
    mantissa = i32(bits - i32(exponent << MANTISSA)).view(np.float32)
    u = (mantissa - ONE) / (mantissa + ONE)
    z = u * u
    return f32(exponent) + u * (L0 + z * (L1 + z * (L2 + z * L3)))


@row_loop
def _sin_pi(x: Any) -> Any:
    z = x * x
    return x * (S0 + z * (S1 + z * (S2 + z * (S3 + z * S4))))


@row_loop
def _tanh(x: Any) -> Any:
    e = _exp2(TWO * LOG2_E * x)
    return (e - ONE) / (e + ONE)


@row_loop
def _fitted(phi: Any, i: Any) -> Any:
    turn = phi - _rounded(phi)
    x = max(i - C, EPS)
    above = A * _exp2(K * _log2(x))
    w = _sin_pi(HALF - abs(turn)) + EPS  # abs(cos(pi phi)) + eps
    below = B * _exp2(M * _log2(w))
    d = above - below
    e = max(d, EPS)
    falling = _exp2(-STEEPNESS * LOG2_E * d)
    h = ONE / (ONE + falling)
    g = h * _exp2(PER_N * _log2(e))
    dd = g * (STEEPNESS * falling * h + (PER_N / e if d >= EPS else ZERO))
    di = dd * K * above / x if i - C >= EPS else ZERO
    return g, dd * PI * M * below / w * _sin_pi(turn), di


@row_loop
def _tanh_gauss(phi: Any, i: Any) -> Any:
    c = min(max(i, CLAMP_LOW), CLAMP_HIGH) - CLAMP_LOW
    turn = phi - _rounded(phi)
    u = turn - HALF if turn >= ZERO else turn + HALF
    bell = _exp2(-HALF * PER_VARIANCE * LOG2_E * u * u)
    t = _tanh(bell)
    safe = max(c, EPS)
    height = R * _exp2(Q * _log2(safe)) if c > ZERO else ZERO
    inside = (i >= CLAMP_LOW) & (i <= CLAMP_HIGH)
    di = Q * height / safe * t if inside else ZERO
    return height * t, -height * (ONE - t * t) * bell * u * PER_VARIANCE, di


@row_loop
def _table(phi: Any, i: Any, table: Any) -> Any:
    turn = phi - _rounded(phi)
    y = abs(turn) * PER_PHI
    x = (min(max(i, TABLE_LOW), TABLE_HIGH) - TABLE_LOW) * PER_I
    # what is not finite must not lead out of the table
    column = max(min(i32(y), LAST_COLUMN), NONE)
    row = max(min(i32(x), LAST_ROW), NONE)
    x -= f32(row)
    y -= f32(column)
    low = np.uint32(row * ROW + column)
    high = np.uint32(low + ROW)
    first, second = table[low], table[high]
    rise, rise_high = table[low + NEXT] - first, table[high + NEXT] - second
    first += y * rise
    second += y * rise_high
    slope = (rise + x * (rise_high - rise)) * PER_PHI
    slope = slope if turn >= ZERO else -slope
    inside = (i >= TABLE_LOW) & (i <= TABLE_HIGH)
    return (
        first + x * (second - first),
        slope if abs(turn) < HALF else ZERO,  # g is even about phi = 1/2
        (second - first) * PER_I if inside else ZERO,
    )


@row_loop
def _of_phi(kind: int, phi: Any) -> Any:
    """g and dg/dphi of the sources that depend on phi alone."""
    if kind == RELU:
        return max(phi, ZERO), ONE if phi > ZERO else ZERO
    if kind == TELU:
        e = _exp2(LOG2_E * min(phi, SATURATED))
        t = _tanh(e)
        return phi * t, t + (phi * e * (ONE - t * t) if phi <= SATURATED else ZERO)
    if kind == GELU:
        t = _tanh(GELU_SLOPE * phi)
        return HALF * phi * (ONE + t), HALF * (ONE + t + GELU_SLOPE * phi * (ONE - t * t))
    t = _tanh(phi)
    return t, ONE - t * t


@row_loop
def _rate(kind: int, phi: Any, i: Any, table: Any) -> Any:
    """g, dg/dphi and dg/di; what the caller does not use is not computed.

    table: the rates, flattened; None for the other sources. Bits and bounds lose a NaN on the way,
    so that it is put back: a sum that diverges must be seen to.
    """
    if table is not None:
        g, dphi, di = _table(phi, i, table)
    elif kind == FITTED:
        g, dphi, di = _fitted(phi, i)
    elif kind == TANH_GAUSS:
        g, dphi, di = _tanh_gauss(phi, i)
    else:
        g, dphi = _of_phi(kind, phi)
        return g + (phi - phi), dphi, ZERO
    both = phi + i
    return g + (both - both), dphi, di


@row_loop
def _advance(
    kind: int, phi: Any, offset: Any, bias: Any, leak: Any, drive: Any, before: Any, after: Any,
    table: Any,
) -> None:  # fmt: skip
    for n in range(after.size):
        g = _rate(kind, phi[n] + offset[n], bias[n] - before[n], table)[0]
        after[n] = before[n] + (drive[n] * g - leak[n] * before[n])


@row_loop
def _slopes(
    kind: int, phi: Any, offset: Any, bias: Any, before: Any, g: Any, dphi: Any, di: Any, table: Any
) -> None:
    for n in range(g.size):
        g[n], dphi[n], di[n] = _rate(kind, phi[n] + offset[n], bias[n] - before[n], table)


@row_loop
def _pull(
    grad_s: Any, drive: Any, leak: Any, carry: Any, total: Any, dphi: Any, di: Any
) -> None:  # fmt: skip
    """From the gradient of the state after a step to those of phi, i and the state before it.

    carry: of the state after, by way of later steps, in; of the state before out. total: of the
    state after, out. dphi, di: the source's derivatives in, gradients of phi and i out.
    """
    for n in range(carry.size):
        total[n] = carry[n] + grad_s[n]
        push = drive[n] * total[n]
        dphi[n] *= push
        di[n] *= push
        carry[n] = total[n] - (leak[n] * total[n] + di[n])


@row_loop
def _subtract_product(a: Any, b: Any, target: Any) -> None:
    for n in range(target.size):
        target[n] -= a[n] * b[n]


@row_loop
def _forward(
    kind: int, phi: Any, offset: Any, bias: Any, leak: Any, drive: Any, s0: Any, s: Any, table: Any,
    start: int, stop: int,
) -> None:  # fmt: skip
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        before = s0[i:j]
        for t in range(s.shape[0]):
            _advance(
                kind, _at(phi, t, i, j), offset[i:j], bias[i:j], leak[i:j], drive[i:j], before,
                s[t, i:j], table,
            )  # fmt: skip
            before = s[t, i:j]


@row_loop
def _backward(
    kind: int, phi: Any, offset: Any, bias: Any, leak: Any, drive: Any, s0: Any, s: Any,
    grad_s: Any, carry: Any, grad_phi: Any, grad_offset: Any, grad_bias: Any, grad_leak: Any,
    grad_drive: Any, table: Any, start: int, stop: int,
) -> None:  # fmt: skip
    buffers = np.empty((4, BLOCK), s.dtype)
    summed = grad_phi.shape[0] == 1
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        g, dphi = buffers[0, : j - i], buffers[1, : j - i]
        di, total = buffers[2, : j - i], buffers[3, : j - i]
        for t in range(s.shape[0] - 1, -1, -1):
            before = s[t - 1, i:j] if t > 0 else s0[i:j]
            _slopes(
                kind, _at(phi, t, i, j), offset[i:j], bias[i:j], before, g, dphi, di, table
            )  # fmt: skip
            _pull(_at(grad_s, t, i, j), drive[i:j], leak[i:j], carry[i:j], total, dphi, di)
            _emit(dphi, summed, _at(grad_phi, t, i, j))
            _add(dphi, grad_offset[i:j])
            _add(di, grad_bias[i:j])
            _subtract_product(total, before, grad_leak[i:j])
            _add_product(total, g, grad_drive[i:j])


@row_loop
def _rates(
    kind: int, phi: Any, current: Any, g: Any, dphi: Any, di: Any, table: Any, start: int, stop: int
) -> None:
    """All [M]; dphi and di may both be None."""
    for n in range(start, stop):
        rate, by_phi, by_i = _rate(kind, phi[n], current[n], table)
        g[n] = rate
        if dphi is not None:
            dphi[n], di[n] = by_phi, by_i


@kernel
def fitted_forward(*args: Any) -> None:
    _forward(FITTED, *args)


@kernel
def table_forward(*args: Any) -> None:
    _forward(TABLE, *args)


@kernel
def tanh_gauss_forward(*args: Any) -> None:
    _forward(TANH_GAUSS, *args)


@kernel
def tanh_forward(*args: Any) -> None:
    _forward(TANH, *args)


@kernel
def relu_forward(*args: Any) -> None:
    _forward(RELU, *args)


@kernel
def telu_forward(*args: Any) -> None:
    _forward(TELU, *args)


@kernel
def gelu_forward(*args: Any) -> None:
    _forward(GELU, *args)


@kernel
def fitted_backward(*args: Any) -> None:
    _backward(FITTED, *args)


@kernel
def table_backward(*args: Any) -> None:
    _backward(TABLE, *args)


@kernel
def tanh_gauss_backward(*args: Any) -> None:
    _backward(TANH_GAUSS, *args)


@kernel
def tanh_backward(*args: Any) -> None:
    _backward(TANH, *args)


@kernel
def relu_backward(*args: Any) -> None:
    _backward(RELU, *args)


@kernel
def telu_backward(*args: Any) -> None:
    _backward(TELU, *args)


@kernel
def gelu_backward(*args: Any) -> None:
    _backward(GELU, *args)


@kernel
def fitted_rates(*args: Any) -> None:
    _rates(FITTED, *args)


@kernel
def table_rates(*args: Any) -> None:
    _rates(TABLE, *args)


@kernel
def tanh_gauss_rates(*args: Any) -> None:
    _rates(TANH_GAUSS, *args)


@kernel
def tanh_rates(*args: Any) -> None:
    _rates(TANH, *args)


@kernel
def relu_rates(*args: Any) -> None:
    _rates(RELU, *args)


@kernel
def telu_rates(*args: Any) -> None:
    _rates(TELU, *args)


@kernel
def gelu_rates(*args: Any) -> None:
    _rates(GELU, *args)
