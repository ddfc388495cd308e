"""CPU kernels of Loihi 2's integer arithmetic, compiled by Numba and cached on disk.

Layout and conventions are those of `spiking`; the equations are in `ops/integer_lif.py`. All
arithmetic is done in 32 bits, because vectors of 32-bit integers hold twice as many elements as
those of 64: a product of 24 and 12 bits is taken in two halves, neither of which overflows. Numba
widens every operation to 64 bits; `np.int32` around each one makes LLVM narrow it again. Sums
beyond 32 bits wrap, as they do in Lava's arrays.
"""

from __future__ import annotations

import numpy as np

from neuro.ops.fixed_point import ACTIVATION_SHIFT, DECAY_BITS, GAMMA_BITS, STATE_LIMIT
from neuro.ops.kernels.spiking import _at, _part, kernel, row_loop

BLOCK = 1 << 13  # features per block; dual neurons keep three rows of 32 bits between steps

_DECAY_BITS = np.int32(DECAY_BITS)
_LOW_BITS = np.int32((1 << DECAY_BITS) - 1)
_SHIFT = np.int32(ACTIVATION_SHIFT)
_GAMMA_BITS, _GAMMA_UNITY = np.int32(GAMMA_BITS), np.int32(1 << GAMMA_BITS)
_LIMIT, _PERIOD = np.int32(STATE_LIMIT), np.int32(2 * STATE_LIMIT)
_HIGHEST = np.int32(STATE_LIMIT - 1)
_NOTHING, _ONE = np.int32(0), np.int32(1)
_SPIKE, _SILENCE = np.uint8(1), np.uint8(0)


@row_loop
def _decayed(x, kept):
    """sgn(x) * ((|x| * kept) >> 12) for kept <= 4096, with |x| = 4096 * high + low."""
    # For |x| < 2^24, both products are at most 2^24.
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> _DECAY_BITS), np.int32(magnitude & _LOW_BITS)
    left = np.int32(np.int32(high * kept) + np.int32(np.int32(low * kept) >> _DECAY_BITS))
    return np.int32(-left) if x < _NOTHING else left


@row_loop
def _wrapped(current):
    """A current after the single wrap at 24 bits."""
    over = _PERIOD if current > _LIMIT else _NOTHING
    under = _PERIOD if current <= -_LIMIT else _NOTHING
    return np.int32(np.int32(current - over) + under)


@row_loop
def _saturated(v):
    return min(max(v, np.int32(-_HIGHEST)), _HIGHEST)


@row_loop
def _integrated(v, summed, kept):
    """Membrane potential of a compartment without current memory (du = 4095)."""
    current = _wrapped(np.int32(summed << _SHIFT))
    return _saturated(np.int32(_decayed(v, kept) + current))


@row_loop
def _merged(fast, slow, gamma):
    """Gated membrane potential; the largest product, 256 * (2^23 - 1), fits 32 bits."""
    x = np.int32(np.int32(gamma * fast) + np.int32(np.int32(_GAMMA_UNITY - gamma) * slow))
    m = np.int32(np.int32(abs(x)) >> _GAMMA_BITS)
    return np.int32(-m) if x < _NOTHING else m


@row_loop
def _after_reset(v, cost, fires: bool, zero: bool):
    return (_NOTHING if zero else np.int32(v - cost)) if fires else v


@row_loop
def _lif_step(
    current,
    v,
    sums,
    bias,
    own_kept_current,
    own_kept_v,
    kept_current,
    kept_v,
    theta,
    zero: bool,
    spikes,
    membrane,
    changes,
) -> None:
    """Advance LIF neurons by one step; bias, the neurons' own decays and membrane may be None."""
    cost = np.int32(theta + _ONE)
    for n in range(v.size):
        before = v[n]
        arriving = np.int32(sums[n] << _SHIFT)
        if own_kept_current is not None:
            remains = _decayed(current[n], own_kept_current[n])
        else:
            remains = _decayed(current[n], kept_current)
        current[n] = _wrapped(np.int32(remains + arriving))
        if own_kept_v is not None:
            raw = np.int32(_decayed(before, own_kept_v[n]) + current[n])
        else:
            raw = np.int32(_decayed(before, kept_v) + current[n])
        if bias is not None:
            raw = np.int32(raw + bias[n])
        now = _saturated(raw)
        fires = now > theta
        after = _after_reset(now, cost, fires, zero)
        v[n] = after
        spikes[n] = _SPIKE if fires else _SILENCE  # a conditional expression: no branch in the loop
        if membrane is not None:
            membrane[n] = now
        changes[n] += _ONE if after != before else _NOTHING


@row_loop
def _dual_step(
    v_fast,
    v_slow,
    fast,
    slow,
    gamma,
    kept_fast,
    kept_slow,
    theta,
    zero: bool,
    spikes,
    membrane_fast,
    membrane_slow,
    changes,
) -> None:
    """Advance dual-timescale neurons by one step; merge "gate", or "or" if gamma is None.

    Membranes may be None.
    """
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
    sums,
    bias,
    own_kept_current,
    own_kept_v,
    current,
    v,
    spikes,
    membrane,
    changes,
    kept_current: int,
    kept_v: int,
    theta: int,
    zero: bool,
    start: int,
    stop: int,
) -> None:
    """LIF neurons over a sequence.

    sums: [T, M] or [1, M]. bias: [M] or None. own_kept_current, own_kept_v: [M], decays that differ
    between neurons, or None. current, v: [M], in and out. spikes, membrane (or None): [T, M], out.
    changes: [M], out: steps that changed v, the first one always counted.
    """
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            _lif_step(
                current[i:j],
                v[i:j],
                _at(sums, t, i, j),
                _part(bias, i, j),
                _part(own_kept_current, i, j),
                _part(own_kept_v, i, j),
                np.int32(kept_current),
                np.int32(kept_v),
                np.int32(theta),
                zero,
                spikes[t, i:j],
                _at(membrane, t, i, j),
                changes[i:j],
            )
            if t == 0:  # the first step always counts, as in NeuroBench's membrane updates
                changes[i:j] = 1


@kernel
def integer_dual_lif(
    fast,
    slow,
    gamma,
    v_fast,
    v_slow,
    spikes,
    membrane_fast,
    membrane_slow,
    changes,
    kept_fast: int,
    kept_slow: int,
    theta: int,
    zero: bool,
    start: int,
    stop: int,
) -> None:
    """Dual-timescale neurons over a sequence; arguments as in `integer_lif`.

    gamma: [M] for merge "gate", None for "or".
    """
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        for t in range(spikes.shape[0]):
            _dual_step(
                v_fast[i:j],
                v_slow[i:j],
                _at(fast, t, i, j),
                _at(slow, t, i, j),
                _part(gamma, i, j),
                np.int32(kept_fast),
                np.int32(kept_slow),
                np.int32(theta),
                zero,
                spikes[t, i:j],
                _at(membrane_fast, t, i, j),
                _at(membrane_slow, t, i, j),
                changes[i:j],
            )
            if t == 0:  # both compartments
                changes[i:j] = 2


@row_loop
def _add_four(a, b, c, d, target) -> None:
    for o in range(target.size):
        target[o] += a[o] + b[o] + c[o] + d[o]


@row_loop
def _add_scaled(factor, row, target) -> None:
    for o in range(target.size):
        target[o] += factor * row[o]


@row_loop
def _add_events(events, values, graded: bool, weight, target) -> None:
    """Add the rows of weight [C, O] at the events, times their values if graded, to target [O]."""
    first = 0
    if (
        not graded
    ):  # four rows per pass over the target, which is read and written a quarter as often
        while first + 4 <= events.size:
            _add_four(
                weight[events[first]],
                weight[events[first + 1]],
                weight[events[first + 2]],
                weight[events[first + 3]],
                target,
            )
            first += 4
    for e in range(first, events.size):
        _add_scaled(values[e], weight[events[e]], target)


@row_loop
def _copy_low_bits(source, spare, target) -> None:
    """Copy the low 32 - spare bits of each number, sign-extended."""
    for o in range(target.size):
        target[o] = np.int32(np.int32(source[o] << spare) >> spare)  # arithmetic shift: keeps sign


@kernel
def synaptic_sums(
    activity, weight, starts, targets, taps, sums, graded: bool, spare: int, start: int, stop: int
) -> None:
    """Sum weights times inputs; arguments as in `ops.integer_synapses.synaptic_sums`.

    sums: [G, R, Q * O], of which rows [start, stop) are set. spare: 32 minus the bits to keep.
    """
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
                # write first and keep the entry only if it is an event: no branch to mispredict
                events[count], values[count] = c, value
                count += value != 0
            for j in range(starts[place], starts[place + 1]):
                first = targets[j] * width
                _add_events(
                    events[:count],
                    values[:count],
                    graded,
                    rows[taps[j]],
                    total[first : first + width],
                )
        for g in range(groups):
            for q in range(sums.shape[2] // outputs):
                first = q * width + g * outputs
                _copy_low_bits(
                    total[first : first + outputs],
                    np.int32(spare),
                    sums[g, r, q * outputs : (q + 1) * outputs],
                )


@row_loop
def _count(activity, counts) -> None:
    for n in range(counts.size):
        counts[n] += _ONE if activity[n] != 0 else _NOTHING


@kernel
def count_events(activity, counts, start: int, stop: int) -> None:
    """Add to counts [N] how many values of each column of activity [R, N] are not zero."""
    for r in range(activity.shape[0]):
        _count(activity[r, start:stop], counts[start:stop])
