"""Memory layout of activity: shape `[..., C, H, W]`, stored channels-last.

Convolutions of many small maps run about twice as fast channels-last, and elementwise neurons work
in any order. A row is the same memory viewed as `[..., H * W * C]`, so the conversions between maps
and rows copy nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_rows(activity: Tensor, lead: int = 2) -> Tensor:
    """Flatten maps `[..., C, H, W]` to rows `[..., H * W * C]`; rows are returned unchanged.

    lead: number of leading dimensions.
    """
    if activity.ndim == lead + 1:
        return activity
    return activity.movedim(lead, activity.ndim - 1).flatten(lead)


def to_maps(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Unflatten rows `[..., N]` to `[..., *shape]`, with shape `[C, H, W]` or `[N]`."""
    if len(shape) == 1:
        return rows
    channels, height, width = shape
    maps = rows.unflatten(-1, (height, width, channels))
    return maps.movedim(maps.ndim - 1, maps.ndim - 3)


def spread(per_channel: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat one value per channel `[C]` for all neurons of a row `[N]`."""
    places = 1 if len(shape) == 1 else shape[1] * shape[2]
    return per_channel.repeat(places)


def channels_last(maps: Tensor) -> Tensor:
    """Convert `[N, C, H, W]` to channels-last memory; other shapes are returned unchanged."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps
