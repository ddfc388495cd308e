"""Event-driven CPU kernels of synapses, compiled by Numba and cached on disk.

Spikes are packed 64 channels to a word. A layer's activity then fits a cache that its float32
values would not fit, and silent neurons cost nothing. An event adds a row of weights, held in
values of LLVM's vector types: Numba vectorises a loop only as a whole, and would keep the running
sums of so short a loop in memory. LLVM splits a vector over as many registers as the processor
needs.

Sums are taken in the order of links and channels, one event after the other, so results do not
depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from neuro.ops.kernels.spiking import _add, _copy, kernel, row_loop

LANES = 16  # float32 values of the shortest vector; rows are padded to a multiple of it

_NO_BIT, _ONE_BIT = np.uint64(0), np.uint64(1)


def _instruction(generator: Any) -> Any:
    """Register an intrinsic; compiled code calls it without the first argument, the context."""
    return intrinsic(generator)


class _Lanes(types.Type):
    """Numba type of a vector of `count` float32 values."""

    def __init__(self, count: int) -> None:
        super().__init__(name=f"Lanes({count})")
        self.vector = ir.VectorType(ir.FloatType(), count)
        self.count = count

    def filled(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.count)


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: _Lanes):
        super().__init__(manager, lanes, lanes.vector)


def _zeros(lanes: _Lanes) -> Any:
    """Intrinsic that returns a vector of zeros."""

    def zeros(_: Any) -> Any:
        return lanes(), lambda context, builder, signature, args: lanes.filled(0)

    return _instruction(zeros)


_zeros_16, _zeros_32, _zeros_64 = (_zeros(_Lanes(count)) for count in (16, 32, 64))


def _address(context: Any, builder: Any, lanes: _Lanes, of: Any, array: Any, index: Any) -> Any:
    data = context.make_array(of)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), lanes.vector.as_pointer())


@_instruction
def _load(_: Any, array: Any, index: Any, like: _Lanes) -> Any:
    """Load the values of a flat float32 array from `index` on, as many as `like` holds."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(_address(context, builder, like, array, *args[:2]))
        loaded.align = 4  # rows are aligned to float32 only; LLVM would assume whole vectors
        return loaded

    return like(array, index, like), generate


@_instruction
def _store(_: Any, lanes: _Lanes, array: Any, index: Any) -> Any:
    """Store the values of a vector in a flat float32 array from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, lanes, array, *args[1:])
        builder.store(args[0], address).align = 4
        return context.get_dummy_value()

    return types.void(lanes, array, index), generate


@_instruction
def _plus(_: Any, a: _Lanes, b: _Lanes) -> Any:
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@_instruction
def _scaled(_: Any, lanes: _Lanes, factor: Any) -> Any:
    """A vector times a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(ir.Constant(lanes.vector, ir.Undefined), args[1], first)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
        return builder.fmul(args[0], builder.shuffle_vector(one, one, everywhere))

    return lanes(lanes, types.float32), generate


@_instruction
def _spikes(_: Any, word: Any, like: _Lanes) -> Any:
    """The lowest bits of a word as 0 or 1, as many as `like` has values."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.trunc(args[0], ir.IntType(like.count))
        return builder.uitofp(
            builder.bitcast(bits, ir.VectorType(ir.IntType(1), like.count)), like.vector
        )

    return like(types.uint64, like), generate


def _differs(value: float) -> Any:
    """Intrinsic that compares 16 numbers with `value`; bit n of the result is set if n differs."""

    def differs(_: Any, lanes: _Lanes) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            unequal = builder.fcmp_unordered("!=", args[0], lanes.filled(value))  # true for NaN
            return builder.zext(builder.bitcast(unequal, ir.IntType(LANES)), ir.IntType(64))

        return types.uint64(lanes), generate

    return _instruction(differs)


_not_zero, _not_one = _differs(0), _differs(1)


@_instruction
def _lowest(_: Any, word: Any) -> Any:
    """Index of the lowest set bit of a word that is not zero."""
    certain = ir.Constant(ir.IntType(1), 1)  # the word is not zero, so no check is generated
    return types.int64(types.uint64), lambda context, builder, signature, args: builder.cttz(
        args[0], certain
    )


@kernel
def pack_events(activity, words, others, start: int, stop: int) -> None:
    """Pack activity [R * N] into words [R, ceil(N / 64)]: bit n % 64 of word n // 64 is value n.

    A bit is set where the value is not 0. others: [1], 0 in; 1 out if a value is neither 0 nor 1.
    """
    rows, per_row = words.shape
    columns = activity.size // rows
    strange = _NO_BIT
    for r in range(start, stop):
        first = r * columns
        for w in range(per_row):
            word, n, end = _NO_BIT, 64 * w, min(columns, 64 * w + 64)
            while n + LANES <= end:  # 16 values at a time, then one by one
                values = _load(activity, first + n, _zeros_16())
                events = _not_zero(values)
                strange |= events & _not_one(values)
                word |= events << np.uint64(n % 64)
                n += LANES
            while n < end:
                value = activity[first + n]
                word |= np.uint64(value != 0) << np.uint64(n % 64)
                strange |= np.uint64((value != 0) & (value != 1))
                n += 1
            words[r, w] = word
    if strange != _NO_BIT:
        others[0] = 1


@kernel
def event_trace(trace, words, decay, start: int, stop: int) -> None:
    """Exponential traces x[t] = decay x[t-1] + s[t] of samples [start, stop).

    trace: [T, B, N], out. words: [T, B, ceil(N / 64)], the spikes as `pack_events` makes them.
    """
    steps, batch, columns = trace.shape
    flat, step = trace.reshape(-1), batch * columns
    for b in range(start, stop):
        for t in range(steps):
            row = t * step + b * columns
            for w in range(words.shape[2]):
                word, n, end = words[t, b, w], 64 * w, min(columns, 64 * w + 64)
                while n + LANES <= end:
                    x = _spikes(word >> np.uint64(n % 64), _zeros_16())
                    if t > 0:
                        x = _plus(_scaled(_load(flat, row - step + n, x), decay), x)
                    _store(x, flat, row + n)
                    n += LANES
                while n < end:
                    bit = np.float32((word >> np.uint64(n % 64)) & _ONE_BIT)
                    flat[row + n] = decay * flat[row - step + n] + bit if t > 0 else bit
                    n += 1


@kernel
def event_sums(sums, words, factors, start: int, stop: int) -> None:
    """Sum over time of spikes times a factor of the step, of samples [start, stop).

    sums: [B, N], out. words: [T, B, ceil(N / 64)]. factors: [T].
    """
    columns, steps = sums.shape[1], factors.size
    for b in range(start, stop):
        for w in range(words.shape[2]):
            n, end = 64 * w, min(columns, 64 * w + 64)
            while n + LANES <= end:
                total, shift = _zeros_16(), np.uint64(n % 64)
                for t in range(steps):
                    spikes = _spikes(words[t, b, w] >> shift, total)
                    total = _plus(total, _scaled(spikes, factors[t]))
                _store(total, sums[b], n)
                n += LANES
            while n < end:
                rest, shift = np.float32(0), np.uint64(n % 64)
                for t in range(steps):
                    rest += factors[t] * np.float32((words[t, b, w] >> shift) & _ONE_BIT)
                sums[b, n] = rest
                n += 1


@row_loop
def _unpack(words, channels: int, fields) -> None:
    """Copy the bits of each place of a row into words of its own: fields [P, F], out."""
    for p in range(fields.shape[0]):
        for f in range(fields.shape[1]):
            # A field of a place may begin in the middle of one word and end in the next.
            first, count = p * channels + 64 * f, channels - 64 * f
            w, shift = first >> 6, np.uint64(first & 63)
            field = words[w] >> shift
            if (first & 63) + min(count, 64) > 64:
                field |= words[w + 1] << (np.uint64(64) - shift)
            if count < 64:
                field &= (_ONE_BIT << np.uint64(count)) - _ONE_BIT
            fields[p, f] = field


@row_loop
def _sum(total, fields, table, width: int, lane: int, starts, sources, taps, channels: int, q: int):
    """Add to `total` the table's rows of the spikes that reach place q, from column `lane` on."""
    for j in range(starts[q], starts[q + 1]):
        for f in range(fields.shape[1]):
            first = (taps[j] * channels + 64 * f) * width + lane
            events = fields[sources[j], f]
            while events != _NO_BIT:
                row = first + _lowest(events) * width
                events &= events - _ONE_BIT  # clears the lowest bit
                total = _plus(total, _load(table, row, total))
    return total


@kernel
def event_currents(
    words, table, places: int, starts, sources, taps, channels: int, sums, start: int, stop: int
) -> None:
    """Sum, for each target place, the table's rows of all spikes that reach it.

    words: [R, W], of `places` places. table: [taps * C * G * O], G * O a multiple of LANES.
    starts, sources, taps: links by target. sums: [G, R, Q, O], of which rows [start, stop) are set.
    """
    groups, _, targets, outputs = sums.shape
    width = groups * outputs
    totals = np.empty(width, np.float32)
    fields = np.empty((places, (channels + 63) // 64), np.uint64)
    links = starts, sources, taps
    for r in range(start, stop):
        _unpack(words[r], channels, fields)
        for q in range(targets):
            at, lane = (fields, table, width), 0
            # Wide vectors first: events are scanned once for every 64, 32 or 16 columns.
            while lane < width:
                if lane + 64 <= width:
                    _store(_sum(_zeros_64(), *at, lane, *links, channels, q), totals, lane)
                    lane += 64
                elif lane + 32 <= width:
                    _store(_sum(_zeros_32(), *at, lane, *links, channels, q), totals, lane)
                    lane += 32
                else:
                    _store(_sum(_zeros_16(), *at, lane, *links, channels, q), totals, lane)
                    lane += 16
            for g in range(groups):
                _copy(totals[g * outputs : (g + 1) * outputs], sums[g, r, q])


@row_loop
def _add_to_rows(table, first: int, width: int, events, value) -> None:
    """Add a vector to the rows of the table that the set bits of `events` select."""
    while events != _NO_BIT:
        row = first + _lowest(events) * width
        events &= events - _ONE_BIT
        _store(_plus(_load(table, row, value), value), table, row)


@row_loop
def _add_row(row, at: int, width: int, table, first: int, events) -> None:
    """Add `width` values of `row` from `at` on to the rows of the table that events select."""
    lane = 0
    while lane < width:
        if lane + 64 <= width:
            whole = _load(row, at + lane, _zeros_64())
            _add_to_rows(table, first + lane, width, events, whole)
            lane += 64
        elif lane + 32 <= width:
            half = _load(row, at + lane, _zeros_32())
            _add_to_rows(table, first + lane, width, events, half)
            lane += 32
        else:
            rest = _load(row, at + lane, _zeros_16())
            _add_to_rows(table, first + lane, width, events, rest)
            lane += 16


@kernel
def source_products(
    words, values, starts, targets, taps, channels: int, tables, size: int, start: int, stop: int
) -> None:
    """Sum of the values at target places that presynaptic spikes reach: a weight gradient.

    words: [R, W], spikes of the source. values: [R, Q, V] of the target, V a multiple of LANES.
    starts, targets, taps: links by source. tables: [chunks, taps * C * V], zeros in; rows
    [start, stop) are added to tables[start // size].
    """
    table, flat = tables[start // size], values.reshape(-1)
    places, width = values.shape[1:]
    fields = np.empty((starts.size - 1, (channels + 63) // 64), np.uint64)
    for r in range(start, stop):
        _unpack(words[r], channels, fields)
        for p in range(starts.size - 1):
            for j in range(starts[p], starts[p + 1]):
                value = (r * places + targets[j]) * width
                for f in range(fields.shape[1]):
                    first = (taps[j] * channels + 64 * f) * width
                    _add_row(flat, value, width, table, first, fields[p, f])


@row_loop
def _gather(values, r: int, starts, sources, taps, q: int, patch) -> None:
    """Values of the sources of target place q, by tap; 0 where a tap has no source (padding)."""
    width = values.shape[2]
    if (starts[q + 1] - starts[q]) * width < patch.size:  # a place at the border: some taps missing
        patch[:] = 0
    for j in range(starts[q], starts[q + 1]):
        first = taps[j] * width
        _copy(values[r, sources[j]], patch[first : first + width])


@kernel
def target_products(
    words, values, starts, sources, taps, channels: int, tables, size: int, start: int, stop: int
) -> None:
    """Sum of presynaptic values at postsynaptic spikes.

    words: [G, R, W], spikes of the target populations. values: [R, P, V] of the source. starts,
    sources, taps: links by target. tables: [chunks, N], zeros in; rows [start, stop) are added to
    tables[start // size]. The rows of a table are the target's channels, population by population,
    and a last one for a neuron that spikes at every place and step; each has taps * V values,
    padded to a multiple of LANES.
    """
    table, groups = tables[start // size], words.shape[0]
    patch = np.zeros(table.size // (groups * channels + 1), np.float32)
    seen = table[table.size - patch.size :]
    fields = np.empty((groups, starts.size - 1, (channels + 63) // 64), np.uint64)
    for r in range(start, stop):
        for g in range(groups):
            _unpack(words[g, r], channels, fields[g])
        for q in range(starts.size - 1):
            _gather(values, r, starts, sources, taps, q, patch)
            _add(patch, seen)
            for g in range(groups):
                for f in range(fields.shape[2]):
                    first = (g * channels + 64 * f) * patch.size
                    _add_row(patch, 0, patch.size, table, first, fields[g, q, f])
