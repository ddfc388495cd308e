"""Exact areas of polygons in pixels, by signed sums over their edges.

Every edge adds the area to its right to the pixels of its rows, with the sign of its direction; a
running sum over the columns gives the covered area of each pixel. Edges are cut at the borders of
pixels, so that the area of a piece is that of a trapezoid and nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from neuro.data.store import Array

#: what sums of areas may lose to rounding
_ROUNDING = 1e-9


def oriented_edges(polygons: Sequence[Array]) -> Array:
    """Edges `[E, 2, 2]` (start and end; row, column) of polygons `[V, 2]` of either direction.

    Polygons must not overlap. Edges along a row are left out: no area lies beside them.
    """
    found = [np.zeros((0, 2, 2))]
    for polygon in polygons:
        edges = np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1)
        area = -_heights(edges) @ edges[:, :, 1].mean(1)
        found.append(edges if area >= 0 else edges[:, ::-1])
    every: Array = np.concatenate(found)
    return every[_heights(every) != 0]


def coverage(edges: Array, height: int, width: int) -> Array:
    """The covered part, 0 to 1, of each pixel `[height, width]` by polygons of `oriented_edges`.

    Coordinates are in pixels; pixel (0, 0) extends from 0 to 1 in both directions.
    """
    pieces = _cut(edges, 0, 0, height)
    pieces = _cut(pieces, 1, -np.inf, np.inf)
    row = np.floor(pieces[:, :, 0].mean(1)).astype(np.int64).clip(0, height - 1)
    x = pieces[:, :, 1].mean(1).clip(0, width)
    column = np.floor(x).astype(np.int64)
    right = _heights(pieces) * (x - column)  # belongs to the columns from the next one on
    at, size = row * (width + 2) + column, height * (width + 2)
    steps = np.bincount(at, _heights(pieces) - right, size) + np.bincount(at + 1, right, size)
    area: Array = steps.reshape(height, width + 2).cumsum(1)[:, :width]
    return area


def rasterised(edges: Array, height: int, width: int) -> Array:
    """A mask uint8 `[height, width]`: 1 where at least half of a pixel is covered."""
    mask: Array = (coverage(edges, height, width) >= 0.5 - _ROUNDING).astype(np.uint8)
    return mask


def bands(polygons: Sequence[Array], pixel_nm: float, size: int) -> Iterator[Array]:
    """Masks uint8 `[size, width]` of a layout, one below the other, `width` a multiple of `size`.

    Polygons `[V, 2]` (x, y upwards) are in nm and do not overlap. They lie in the middle of the
    whole, in dark; borders of pixels coincide with their upper and left ends.
    """
    points = np.concatenate(polygons) / pixel_nm
    left, bottom = points.min(0)
    right, top = points.max(0)
    needed = np.ceil(np.array([top - bottom, right - left]) - _ROUNDING).astype(int)
    height, width = (-(-needed // size) * size).tolist()
    above, before = ((height, width) - needed) // 2
    corner = np.array([top + above, left - before])
    edges = oriented_edges([(p[:, ::-1] / pixel_nm - corner) * (-1, 1) for p in polygons])
    low, high = edges[:, :, 0].min(1), edges[:, :, 0].max(1)
    for row in range(0, height, size):
        here = edges[(high > row) & (low < row + size)]
        yield rasterised(here - (row, 0), size, width)


def _heights(edges: Array) -> Array:
    heights: Array = edges[:, 1, 0] - edges[:, 0, 0]
    return heights


def _cut(edges: Array, axis: int, first: float, last: float) -> Array:
    """Pieces of edges between grid lines across an axis, those from line `first` to `last`."""
    falling = edges[:, 0, axis] > edges[:, 1, axis]
    rising = np.where(falling[:, None, None], edges[:, ::-1], edges)
    low, high = rising[:, 0, axis], rising[:, 1, axis]
    start = np.maximum(np.floor(low), first)
    count = np.maximum(np.minimum(np.ceil(high), last) - start, low == high).clip(0)
    count = count.astype(np.int64)
    edge = np.repeat(np.arange(len(edges)), count)
    number = np.arange(len(edge)) - np.repeat(count.cumsum() - count, count)
    rising, low, high = rising[edge], low[edge], high[edge]
    line = start[edge] + number
    ends = np.stack([np.maximum(line, low), np.minimum(line + 1, high)], 1)
    length = np.where(high > low, high - low, 1)[:, None]
    along = np.where((high > low)[:, None], (ends - low[:, None]) / length, [0.0, 1.0])
    pieces: Array = rising[:, :1] + along[:, :, None] * (rising[:, 1:] - rising[:, :1])
    pieces[:, :, axis] = ends
    pieces[falling[edge]] = pieces[falling[edge], ::-1]
    return pieces
