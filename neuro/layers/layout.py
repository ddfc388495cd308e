"""Maps as rows and back: activity lies channels-last in memory, and shows channels first.

Convolutions of many small maps run about twice as fast channels-last, and neurons do not care about
order. So spikes keep the shape `[..., C, H, W]` everywhere while every place's channels lie side by
side; a row is the same memory seen as `[..., H * W * C]`. Nothing is copied on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_rows(activity: Tensor, lead: int = 2) -> Tensor:
    """`[..., C, H, W]` to `[..., H * W * C]` behind `lead` leading dimensions; rows stay rows."""
    if activity.ndim == lead + 1:
        return activity
    return activity.movedim(lead, -1).flatten(lead)


def to_maps(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse: `[..., N]` to `[..., C, H, W]` for neurons of `shape`."""
    if len(shape) == 1:
        return rows
    channels, height, width = shape
    return rows.unflatten(-1, (height, width, channels)).movedim(-1, -3)


def spread(per_channel: Tensor, shape: Sequence[int]) -> Tensor:
    """One value per channel `[C]` as one per neuron of a row `[N]`."""
    places = 1 if len(shape) == 1 else shape[1] * shape[2]
    return per_channel.repeat(places)


def channels_last(maps: Tensor) -> Tensor:
    """`[N, C, H, W]` in channels-last memory; anything else as it is."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps
