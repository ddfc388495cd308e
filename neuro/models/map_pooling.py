"""Features of a readout: maps of spikes or rates pooled to at most `grid` x `grid` places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled(maps: Tensor, grid: int) -> Tensor:
    """Spikes or rates of a layer as features of the readout, `[N, ...]` to `[N, F]`."""
    if _pools(maps.shape[1:], grid):
        maps = F.adaptive_avg_pool2d(maps, grid)
    return maps.flatten(1)


def unpooled(weight: Tensor, shape: Sequence[int], grid: int) -> Tensor:
    """Weights of a layer's features `[K, F]` as weights of its neurons `[K, neurons]`.

    Averaging maps and then weighting the averages is one linear map.
    """
    if not _pools(shape, grid):
        return weight
    channels, height, width = shape
    places = torch.eye(height * width, dtype=weight.dtype, device=weight.device)
    pooling = F.adaptive_avg_pool2d(places.view(-1, 1, height, width), grid)
    return (weight.unflatten(1, (channels, -1)) @ pooling.flatten(1).T).flatten(1)


def feature_count(shape: Sequence[int], grid: int) -> int:
    """Features of a layer of `shape` without the batch."""
    return pooled(torch.zeros(1, *shape), grid).shape[1]


def _pools(shape: Sequence[int], grid: int) -> bool:
    return len(shape) == 3 and max(shape[1:]) > grid
