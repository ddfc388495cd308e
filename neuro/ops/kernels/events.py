"""Event-driven CPU kernels of synapses, compiled by Numba and cached on disk.

Spikes are packed 64 channels to a word. A layer's activity then fits a cache that its float32
values would not fit, and silent neurons cost nothing. An event adds a row of weights, held in
vectors (`vectors`).

Sums are taken in the order of links and channels, one event after the other, so results do not
depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from neuro.ops.kernels.spiking import _add, _copy, kernel, row_loop
from neuro.ops.kernels.vectors import (
    LANES,
    NO_BIT,
    ONE_BIT,
    load,
    lowest,
    not_one,
    not_zero,
    plus,
    scaled,
    spikes_of,
    store,
    zeros_16,
    zeros_32,
    zeros_64,
)


@kernel
def pack_events(activity, words, others, start: int, stop: int) -> None:
    """Pack activity [R * N] into words [R, ceil(N / 64)]: bit n % 64 of word n // 64 is value n.

    A bit is set where the value is not 0. others: [1], 0 in; 1 out if a value is neither 0 nor 1.
    """
    rows, per_row = words.shape
    columns = activity.size // rows
    strange = NO_BIT
    for r in range(start, stop):
        first = r * columns
        for w in range(per_row):
            word, n, end = NO_BIT, 64 * w, min(columns, 64 * w + 64)
            while n + LANES <= end:  # 16 values at a time, then one by one
                values = load(activity, first + n, zeros_16())
                events = not_zero(values)
                strange |= events & not_one(values)
                word |= events << np.uint64(n % 64)
                n += LANES
            while n < end:
                value = activity[first + n]
                word |= np.uint64(value != 0) << np.uint64(n % 64)
                strange |= np.uint64((value != 0) & (value != 1))
                n += 1
            words[r, w] = word
    if strange != NO_BIT:
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
                    x = spikes_of(word >> np.uint64(n % 64), zeros_16())
                    if t > 0:
                        x = plus(scaled(load(flat, row - step + n, x), decay), x)
                    store(x, flat, row + n)
                    n += LANES
                while n < end:
                    bit = np.float32((word >> np.uint64(n % 64)) & ONE_BIT)
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
                total, shift = zeros_16(), np.uint64(n % 64)
                for t in range(steps):
                    spikes = spikes_of(words[t, b, w] >> shift, total)
                    total = plus(total, scaled(spikes, factors[t]))
                store(total, sums[b], n)
                n += LANES
            while n < end:
                rest, shift = np.float32(0), np.uint64(n % 64)
                for t in range(steps):
                    rest += factors[t] * np.float32((words[t, b, w] >> shift) & ONE_BIT)
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
                field &= (ONE_BIT << np.uint64(count)) - ONE_BIT
            fields[p, f] = field


@row_loop
def _sum(total, fields, table, width: int, lane: int, starts, sources, taps, channels: int, q: int):
    """Add to `total` the table's rows of the spikes that reach place q, from column `lane` on."""
    for j in range(starts[q], starts[q + 1]):
        for f in range(fields.shape[1]):
            first = (taps[j] * channels + 64 * f) * width + lane
            events = fields[sources[j], f]
            while events != NO_BIT:
                row = first + lowest(events) * width
                events &= events - ONE_BIT  # clears the lowest bit
                total = plus(total, load(table, row, total))
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
                    store(_sum(zeros_64(), *at, lane, *links, channels, q), totals, lane)
                    lane += 64
                elif lane + 32 <= width:
                    store(_sum(zeros_32(), *at, lane, *links, channels, q), totals, lane)
                    lane += 32
                else:
                    store(_sum(zeros_16(), *at, lane, *links, channels, q), totals, lane)
                    lane += 16
            for g in range(groups):
                _copy(totals[g * outputs : (g + 1) * outputs], sums[g, r, q])


@row_loop
def _add_to_rows(table, first: int, width: int, events, value) -> None:
    """Add a vector to the rows of the table that the set bits of `events` select."""
    while events != NO_BIT:
        row = first + lowest(events) * width
        events &= events - ONE_BIT
        store(plus(load(table, row, value), value), table, row)


@row_loop
def _add_row(row, at: int, width: int, table, first: int, events) -> None:
    """Add `width` values of `row` from `at` on to the rows of the table that events select."""
    lane = 0
    while lane < width:
        if lane + 64 <= width:
            whole = load(row, at + lane, zeros_64())
            _add_to_rows(table, first + lane, width, events, whole)
            lane += 64
        elif lane + 32 <= width:
            half = load(row, at + lane, zeros_32())
            _add_to_rows(table, first + lane, width, events, half)
            lane += 32
        else:
            rest = load(row, at + lane, zeros_16())
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
