"""Kernels of the chip's integers for the CPU, compiled by Numba at first use and cached on disk.

Layout and form are those of `spiking`; `integer_lif.py` has the equations. Whatever is said
there of 24 bits, everything here has 32: a product of 24 and 12 bits is taken in two halves, of
which neither overflows, since vectors of 32 bits hold twice as many elements as those of 64. Numba
widens every operation to 64 bits; `np.int32` around each lets LLVM narrow it again. Sums that leave
32 bits wrap, which is what Lava's arrays do.

Numba's disk cache watches this file alone, not the constants that it imports.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neuro.ops.fixed_point import ACTIVATION_SHIFT, DECAY_BITS, GAMMA_BITS, STATE_LIMIT
from neuro.ops.kernels.spiking import _at, _part, kernel, row_loop

BLOCK = 1 << 13  # features, of which a dual neuron keeps three rows of 32 bits between steps

_DECAY_BITS = np.int32(DECAY_BITS)
_LOW_BITS = np.int32((1 << DECAY_BITS) - 1)
_SHIFT = np.int32(ACTIVATION_SHIFT)
_GAMMA_BITS, _GAMMA_UNITY = np.int32(GAMMA_BITS), np.int32(1 << GAMMA_BITS)
_LIMIT, _PERIOD = np.int32(STATE_LIMIT), np.int32(2 * STATE_LIMIT)
_HIGHEST = np.int32(STATE_LIMIT - 1)
_NOTHING, _ONE = np.int32(0), np.int32(1)
_SPIKE, _SILENCE = np.uint8(1), np.uint8(0)


@row_loop
def _decayed(x: Any, kept: Any) -> Any:
    """sgn(x) * ((|x| * kept) >> 12) for kept <= 4096, with |x| = 4096 * high + low."""
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> _DECAY_BITS), np.int32(magnitude & _LOW_BITS)
    left = np.int32(np.int32(high * kept) + np.int32(np.int32(low * kept) >> _DECAY_BITS))
    return np.int32(-left) if x < _NOTHING else left


@row_loop
def _wrapped(u: Any) -> Any:
    """u after the single wrap at 24 bits."""
    over = _PERIOD if u > _LIMIT else _NOTHING
    under = _PERIOD if u <= -_LIMIT else _NOTHING
    return np.int32(np.int32(u - over) + under)


@row_loop
def _saturated(v: Any) -> Any:
    return min(max(v, np.int32(-_HIGHEST)), _HIGHEST)


@row_loop
def _integrated(v: Any, summed: Any, kept: Any) -> Any:
    """v of a compartment whose u keeps nothing."""
    u = _wrapped(np.int32(summed << _SHIFT))
    return _saturated(np.int32(_decayed(v, kept) + u))


@row_loop
def _merged(fast: Any, slow: Any, gamma: Any) -> Any:
    """The gated membrane; 256 * (2^23 - 1) fits 32 bits."""
    x = np.int32(np.int32(gamma * fast) + np.int32(np.int32(_GAMMA_UNITY - gamma) * slow))
    m = np.int32(np.int32(abs(x)) >> _GAMMA_BITS)
    return np.int32(-m) if x < _NOTHING else m


@row_loop
def _after_reset(v: Any, cost: Any, fires: bool, zero: bool) -> Any:
    return (_NOTHING if zero else np.int32(v - cost)) if fires else v


@row_loop
def _lif_step(
    u: Any, v: Any, sums: Any, bias: Any, kept_u: Any, kept_v: Any, theta: Any, zero: bool,
    spikes: Any, membrane: Any, changes: Any,
) -> None:  # fmt: skip
    """One step of LIF neurons; bias and membrane may be None."""
    cost = np.int32(theta + _ONE)
    for n in range(v.size):
        before = v[n]
        u[n] = _wrapped(np.int32(_decayed(u[n], kept_u) + np.int32(sums[n] << _SHIFT)))
        raw = np.int32(_decayed(before, kept_v) + u[n])
        if bias is not None:
            raw = np.int32(raw + bias[n])
        now = _saturated(raw)
        fires = now > theta
        after = _after_reset(now, cost, fires, zero)
        v[n] = after
        spikes[n] = _SPIKE if fires else _SILENCE
        if membrane is not None:
            membrane[n] = now
        changes[n] += _ONE if after != before else _NOTHING


@row_loop
def _dual_step(
    v_fast: Any, v_slow: Any, fast: Any, slow: Any, gamma: Any, kept_fast: Any, kept_slow: Any,
    theta: Any, zero: bool, spikes: Any, membrane_fast: Any, membrane_slow: Any, changes: Any,
) -> None:  # fmt: skip
    """One step of dual-timescale neurons, by gate or (gamma None) by or. Membranes may be None."""
    cost = np.int32(theta + _ONE)
    for n in range(v_fast.size):
        before_fast, before_slow = v_fast[n], v_slow[n]
        now_fast = _integrated(before_fast, fast[n], kept_fast)
        now_slow = _integrated(before_slow, slow[n], kept_slow)
        if gamma is not None:
            fires = _merged(now_fast, now_slow, gamma[n]) > theta
            after_fast = _after_reset(now_fast, cost, fires, zero)
            after_slow = _after_reset(now_slow, cost, fires, zero)
        else:
            fires = (now_fast > theta) | (now_slow > theta)
            after_fast = _after_reset(now_fast, cost, now_fast > theta, zero)
            after_slow = _after_reset(now_slow, cost, now_slow > theta, zero)
        v_fast[n], v_slow[n] = after_fast, after_slow
        spikes[n] = _SPIKE if fires else _SILENCE
        if membrane_fast is not None:
            membrane_fast[n], membrane_slow[n] = now_fast, now_slow
        changes[n] += _ONE if after_fast != before_fast else _NOTHING
        changes[n] += _ONE if after_slow != before_slow else _NOTHING


@kernel
def integer_lif(
    sums: Any, bias: Any, u: Any, v: Any, spikes: Any, membrane: Any, changes: Any,
    kept_u: int, kept_v: int, theta: int, zero: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """u, v: [M] in and out. changes: [M] out. spikes, membrane: [T, M] out."""
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            _lif_step(
                u[i:j], v[i:j], _at(sums, t, i, j), _part(bias, i, j), np.int32(kept_u),
                np.int32(kept_v), np.int32(theta), zero, spikes[t, i:j], _at(membrane, t, i, j),
                changes[i:j],
            )  # fmt: skip
            if t == 0:
                changes[i:j] = 1


@kernel
def integer_dual_lif(
    fast: Any, slow: Any, gamma: Any, v_fast: Any, v_slow: Any, spikes: Any, membrane_fast: Any,
    membrane_slow: Any, changes: Any, kept_fast: int, kept_slow: int, theta: int, zero: bool,
    start: int, stop: int,
) -> None:  # fmt: skip
    """gamma: [M] merges by gate, None by or. v: [M] in and out. The rest as in `integer_lif`."""
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            _dual_step(
                v_fast[i:j], v_slow[i:j], _at(fast, t, i, j), _at(slow, t, i, j),
                _part(gamma, i, j), np.int32(kept_fast), np.int32(kept_slow), np.int32(theta),
                zero, spikes[t, i:j], _at(membrane_fast, t, i, j), _at(membrane_slow, t, i, j),
                changes[i:j],
            )  # fmt: skip
            if t == 0:
                changes[i:j] = 2


@row_loop
def _add_four(a: Any, b: Any, c: Any, d: Any, target: Any) -> None:
    for o in range(target.size):
        target[o] += a[o] + b[o] + c[o] + d[o]


@row_loop
def _add_scaled(factor: Any, row: Any, target: Any) -> None:
    for o in range(target.size):
        target[o] += factor * row[o]


@row_loop
def _add_events(events: Any, values: Any, graded: bool, weight: Any, target: Any) -> None:
    """weight: [C, O], of which the rows of the events are added to target [O]."""
    first = 0
    if not graded:
        while first + 4 <= events.size:
            _add_four(
                weight[events[first]], weight[events[first + 1]],
                weight[events[first + 2]], weight[events[first + 3]], target,
            )  # fmt: skip
            first += 4
    for e in range(first, events.size):
        _add_scaled(values[e], weight[events[e]], target)


@row_loop
def _copy_low_bits(source: Any, spare: Any, target: Any) -> None:
    """Signed numbers of 32 - spare bits."""
    for o in range(target.size):
        target[o] = np.int32(np.int32(source[o] << spare) >> spare)


@kernel
def event_sums(
    activity: Any, weight: Any, starts: Any, targets: Any, taps: Any, sums: Any,
    graded: bool, spare: int, start: int, stop: int,
) -> None:  # fmt: skip
    """Rows [start, stop) of the sums [G, R, Q * O]; see `event_sums.py`."""
    groups, outputs = weight.shape[2:]
    channels, width = weight.shape[1], groups * outputs
    rows = weight.reshape(weight.shape[0], channels, width)
    events, values = np.empty(channels, np.int64), np.empty(channels, np.int32)
    total = np.empty(sums.shape[2] * groups, np.int32)
    for r in range(start, stop):
        total[:] = 0
        for place in range(starts.size - 1):
            count = 0
            for c in range(channels):
                value = activity[r, place * channels + c]
                events[count], values[count] = c, value
                count += value != 0
            for j in range(starts[place], starts[place + 1]):
                first = targets[j] * width
                _add_events(
                    events[:count], values[:count], graded, rows[taps[j]],
                    total[first : first + width],
                )  # fmt: skip
        for g in range(groups):
            for q in range(sums.shape[2] // outputs):
                first = q * width + g * outputs
                _copy_low_bits(
                    total[first : first + outputs], np.int32(spare),
                    sums[g, r, q * outputs : (q + 1) * outputs],
                )  # fmt: skip


@row_loop
def _count(activity: Any, counts: Any) -> None:
    for n in range(counts.size):
        counts[n] += _ONE if activity[n] != 0 else _NOTHING


@kernel
def count_events(activity: Any, counts: Any, start: int, stop: int) -> None:
    """activity: [R, N]. counts: [N], how many values of each column are not zero, added to it."""
    for r in range(activity.shape[0]):
        _count(activity[r, start:stop], counts[start:stop])
