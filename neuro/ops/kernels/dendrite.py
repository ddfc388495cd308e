"""Fused CPU kernels of dendrites in float32; layout and conventions as in `spiking`.

A source function takes up to six exponentials and logarithms per dendrite and step. Those of the
standard library are function calls, which prevent LLVM from vectorising a loop. Short polynomials,
fitted at Chebyshev points, replace them: `_exp2` and `_sin_pi` have a relative error of at most
2e-7; `_log2` has one of 1e-7, or an absolute error of 2e-7 where the value is below 2. Powers are
exp2(y log2(x)). A product and a sum may be fused, which saves a fifth of the time. float64 and
other devices use the torch loops of `dendrite_torch`.

There is one kernel per source function, because a choice inside the loop would not be vectorised.
Backward kernels run once through the sequence, from the inputs and the states.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from neuro.ops import sources
from neuro.ops.kernels.spiking import Kernel, _add, _add_product, _at, _emit, kernel
from neuro.ops.squid import I_CELLS, I_MAX, I_MIN, PHI_CELLS, PHI_MAX

BLOCK = 1 << 11  # dendrites per block; its rows stay in the first-level cache between loops
FITTED, TABLE, TANH_GAUSS, TANH, RELU, TELU, GELU = range(7)

f32, i32 = np.float32, np.int32
ZERO, HALF, ONE, TWO, PI = f32(0), f32(0.5), f32(1), f32(2), f32(math.pi)
# Float32 spacing is 1 at this size: x + ROUND - ROUND rounds x, and the last bits of x + ROUND are
# the rounded integer.
ROUND = f32(3 << 22)
LOG2_E, LN_2 = f32(math.log2(math.e)), f32(math.log(2))

# Polynomial of 2^x on [-1/2, 1/2]
E0, E1, E2 = f32(1.0), f32(0.6931472067106197), f32(0.24022651213595175)
E3, E4 = f32(0.055503272142097416), f32(0.00961802560295849)
E5, E6 = f32(0.0013400432165185502), f32(0.0001546973197733682)
LOWEST, HIGHEST = f32(-126), f32(126)  # exponents of normal numbers
# Polynomial of log2((1 + r) / (1 - r)) / r in r^2, for mantissas from sqrt(1/2) to sqrt(2)
L0, L1 = f32(2.8853900797912084), f32(0.9617988462471083)
L2, L3 = f32(0.5767145103510188), f32(0.4317330160306698)
ROOT_HALF = i32(0x3F3504F3)  # the bits of sqrt(1/2)
MANTISSA = i32(23)  # bits
# Polynomial of sin(pi x) / x in x^2, on [-1/2, 1/2]
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
    """Compile like `spiking.row_loop`, with fused multiply-add allowed."""
    fusing = njit(error_model="numpy", forceinline=True, fastmath={"contract"})
    compiled: Kernel = fusing(function)
    return compiled


@row_loop
def _rounded(x):
    return f32(x + ROUND) - ROUND


@row_loop
def _exp2(x):
    x = min(max(x, LOWEST), HIGHEST)
    shifted = f32(x + ROUND)  # its low bits are the integer part, which becomes the exponent
    x -= shifted - ROUND
    mantissa = f32(E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * E6))))))
    exponent = i32(shifted.view(np.int32) << MANTISSA)
    return i32(mantissa.view(np.int32) + exponent).view(np.float32)


@row_loop
def _log2(x):
    """log2 of a normal positive number: its exponent plus log2 of its mantissa."""
    # Subtracting sqrt(1/2) first puts the mantissa into [sqrt(1/2), sqrt(2)), around log2 = 0.
    bits = f32(x).view(np.int32)
    exponent = i32(i32(bits - ROOT_HALF) >> MANTISSA)
    mantissa = i32(bits - i32(exponent << MANTISSA)).view(np.float32)
    r = (mantissa - ONE) / (mantissa + ONE)
    z = r * r
    return f32(exponent) + r * (L0 + z * (L1 + z * (L2 + z * L3)))


@row_loop
def _sin_pi(x):
    z = x * x
    return x * (S0 + z * (S1 + z * (S2 + z * (S3 + z * S4))))


@row_loop
def _tanh(x):
    e = _exp2(TWO * LOG2_E * x)
    return (e - ONE) / (e + ONE)


@row_loop
def _fitted(phi, i):
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
def _tanh_gauss(phi, i):
    c = min(max(i, CLAMP_LOW), CLAMP_HIGH) - CLAMP_LOW
    turn = phi - _rounded(phi)
    delta = turn - HALF if turn >= ZERO else turn + HALF
    bell = _exp2(-HALF * PER_VARIANCE * LOG2_E * delta * delta)
    t = _tanh(bell)
    safe = max(c, EPS)  # c = 0 has no logarithm
    height = R * _exp2(Q * _log2(safe)) if c > ZERO else ZERO
    inside = (i >= CLAMP_LOW) & (i <= CLAMP_HIGH)
    di = Q * height / safe * t if inside else ZERO
    return height * t, -height * (ONE - t * t) * bell * delta * PER_VARIANCE, di


@row_loop
def _table(phi, i, table):
    turn = phi - _rounded(phi)
    y = abs(turn) * PER_PHI
    x = (min(max(i, TABLE_LOW), TABLE_HIGH) - TABLE_LOW) * PER_I
    # clamp the integers: a value that is not finite must not index outside the table
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
def _of_phi(kind: int, phi):
    """g and dg/dphi of the source functions of phi alone."""
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
def _rate(kind: int, phi, i, table):
    """g, dg/dphi and dg/di; LLVM drops what the caller does not use.

    table: the rate table, flattened; None for other sources. Bit operations and clamps would turn
    NaN into a number and hide divergence, so x - x (0, or NaN) is added to the result.
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
def _advance(kind: int, phi, offset, bias, leak, drive, before, after, table) -> None:
    for n in range(after.size):
        g = _rate(kind, phi[n] + offset[n], bias[n] - before[n], table)[0]
        after[n] = before[n] + (drive[n] * g - leak[n] * before[n])


@row_loop
def _slopes(kind: int, phi, offset, bias, before, g, dphi, di, table) -> None:
    for n in range(g.size):
        g[n], dphi[n], di[n] = _rate(kind, phi[n] + offset[n], bias[n] - before[n], table)


@row_loop
def _pull(grad_s, drive, leak, carry, total, dphi, di) -> None:
    """Backpropagate one step: from the state after it to phi, i and the state before it.

    carry: gradient of the state after the step through later steps, in; of the state before, out.
    total: whole gradient of the state after the step, out. dphi, di: derivatives of the source
    function in, gradients of phi and i out.
    """
    for n in range(carry.size):
        total[n] = carry[n] + grad_s[n]
        push = drive[n] * total[n]
        dphi[n] *= push
        di[n] *= push
        carry[n] = total[n] - (leak[n] * total[n] + di[n])


@row_loop
def _subtract_product(a, b, target) -> None:
    for n in range(target.size):
        target[n] -= a[n] * b[n]


@row_loop
def _forward(
    kind: int, phi, offset, bias, leak, drive, s0, s, table, start: int, stop: int
) -> None:
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        before = s0[i:j]
        for t in range(s.shape[0]):
            _advance(
                kind,
                _at(phi, t, i, j),
                offset[i:j],
                bias[i:j],
                leak[i:j],
                drive[i:j],
                before,
                s[t, i:j],
                table,
            )
            before = s[t, i:j]


@row_loop
def _backward(
    kind: int,
    phi,
    offset,
    bias,
    leak,
    drive,
    s0,
    s,
    grad_s,
    carry,
    grad_phi,
    grad_offset,
    grad_bias,
    grad_leak,
    grad_drive,
    table,
    start: int,
    stop: int,
) -> None:
    buffers = np.empty((4, BLOCK), s.dtype)
    summed = grad_phi.shape[0] == 1  # a constant flux: its gradient is a sum over time
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        g, dphi = buffers[0, : j - i], buffers[1, : j - i]
        di, total = buffers[2, : j - i], buffers[3, : j - i]
        for t in range(s.shape[0] - 1, -1, -1):
            before = s[t - 1, i:j] if t > 0 else s0[i:j]
            _slopes(kind, _at(phi, t, i, j), offset[i:j], bias[i:j], before, g, dphi, di, table)
            _pull(_at(grad_s, t, i, j), drive[i:j], leak[i:j], carry[i:j], total, dphi, di)
            _emit(dphi, summed, _at(grad_phi, t, i, j))
            _add(dphi, grad_offset[i:j])
            _add(di, grad_bias[i:j])
            _subtract_product(total, before, grad_leak[i:j])
            _add_product(total, g, grad_drive[i:j])


@row_loop
def _rates(kind: int, phi, current, g, dphi, di, table, start: int, stop: int) -> None:
    """g of phi and current, all [M]; the derivatives dphi and di may both be None."""
    for n in range(start, stop):
        rate, by_phi, by_i = _rate(kind, phi[n], current[n], table)
        g[n] = rate
        if dphi is not None:
            dphi[n], di[n] = by_phi, by_i


@kernel
def fitted_forward(*args) -> None:
    _forward(FITTED, *args)


@kernel
def table_forward(*args) -> None:
    _forward(TABLE, *args)


@kernel
def tanh_gauss_forward(*args) -> None:
    _forward(TANH_GAUSS, *args)


@kernel
def tanh_forward(*args) -> None:
    _forward(TANH, *args)


@kernel
def relu_forward(*args) -> None:
    _forward(RELU, *args)


@kernel
def telu_forward(*args) -> None:
    _forward(TELU, *args)


@kernel
def gelu_forward(*args) -> None:
    _forward(GELU, *args)


@kernel
def fitted_backward(*args) -> None:
    _backward(FITTED, *args)


@kernel
def table_backward(*args) -> None:
    _backward(TABLE, *args)


@kernel
def tanh_gauss_backward(*args) -> None:
    _backward(TANH_GAUSS, *args)


@kernel
def tanh_backward(*args) -> None:
    _backward(TANH, *args)


@kernel
def relu_backward(*args) -> None:
    _backward(RELU, *args)


@kernel
def telu_backward(*args) -> None:
    _backward(TELU, *args)


@kernel
def gelu_backward(*args) -> None:
    _backward(GELU, *args)


@kernel
def fitted_rates(*args) -> None:
    _rates(FITTED, *args)


@kernel
def table_rates(*args) -> None:
    _rates(TABLE, *args)


@kernel
def tanh_gauss_rates(*args) -> None:
    _rates(TANH_GAUSS, *args)


@kernel
def tanh_rates(*args) -> None:
    _rates(TANH, *args)


@kernel
def relu_rates(*args) -> None:
    _rates(RELU, *args)


@kernel
def telu_rates(*args) -> None:
    _rates(TELU, *args)


@kernel
def gelu_rates(*args) -> None:
    _rates(GELU, *args)
