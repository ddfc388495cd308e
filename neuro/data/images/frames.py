"""Frames of still images: resizing, moving, and spikes by latency."""

from __future__ import annotations

import numpy as np

from neuro.data import store
from neuro.data.images.sets import Images


def hat_weights(positions: store.Array, size: int) -> store.Array:
    """Weights `[..., P, size]` of linear interpolation at `positions [..., P]`; 0 outside."""
    distance = np.abs(positions[..., None] - np.arange(size))
    weights: store.Array = np.maximum(0.0, 1.0 - distance).astype(np.float32)
    return weights


def resized(images: Images, size: int) -> Images:
    """Images of `size` x `size` by bilinear interpolation (pixel centres, edges repeated)."""
    height, width = images.pixels.shape[1:]
    if (height, width) == (size, size):
        return images
    down, right = (
        hat_weights(np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1), old)
        for old in (height, width)
    )
    values = down @ (images.pixels / np.float32(images.levels)) @ right.T
    return Images(to_uint8(values), images.labels, 255)


def moved(still: store.Array, down: store.Array, right: store.Array) -> store.Array:
    """Frames `[N, T, H, W]` of images `[N, 1, H, W]`, each moved by `down` and `right` pixels.

    Both are `[N, T]`, parts of a pixel allowed; filled with black.
    """
    height, width = still.shape[2:]
    rows = hat_weights(np.arange(height) - down[..., None], height)  # [N, T, H, H]
    columns = hat_weights(np.arange(width) - right[..., None], width)  # [N, T, W, W]
    frames = rows @ still.astype(np.float32) @ columns.swapaxes(-1, -2)
    rounded: store.Array = np.rint(frames).astype(np.uint8)
    return rounded


def latency_spikes(values: store.Array, frames: int) -> store.Array:
    """Spikes `[N, T, H, W]` of values `[N, H, W]`: 1 in the first frame, just above 0 in the last.

    A pixel of value v spikes at frame round((1 - v) * (T - 1)); black ones never do.
    """
    when = np.rint((1 - values) * (frames - 1)).astype(np.int64)
    spikes: store.Array = np.arange(frames)[None, :, None, None] == when[:, None]
    spikes &= (values > 0)[:, None]
    return spikes.astype(np.uint8)


def to_uint8(values: store.Array) -> store.Array:
    """Values 0 to 1 as 0 to 255."""
    pixels: store.Array = np.rint(values * 255).astype(np.uint8)
    return pixels
