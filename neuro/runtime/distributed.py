"""Statistics of a batch that is divided among processes, as if one process had all of it.

A loss that is a mean over samples needs none of this: the trainer weights every process's share.
A rule that multiplies or divides such means, or looks at which classes occur, takes them from here.
Every process must call the same functions in the same order. In one process nothing is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def divided() -> bool:
    """Whether batches are divided among several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.no_grad()
def batch_means(means: Sequence[Tensor], samples: int) -> list[Tensor]:
    """Means over this process's `samples` samples as means over the whole batch; no gradient.

    Any shapes; one exchange for all of them.
    """
    if not divided():
        return [mean.detach() for mean in means]
    parts = [mean.detach().flatten().double() for mean in means]
    sums = torch.cat([*parts, parts[0].new_ones(1)]) * samples
    dist.all_reduce(sums)
    joined = (sums[:-1] / sums[-1]).split([len(part) for part in parts])
    return [new.view(mean.shape).to(mean.dtype) for new, mean in zip(joined, means, strict=True)]


def gathered(value: T) -> list[T]:
    """What every process has for `value` (tensors on the CPU, plain values), in order of ranks."""
    if not divided():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def occurring(targets: Tensor, classes: int) -> Tensor:
    """Which of `classes` classes occur among a batch's targets: `[classes]`, bool."""
    counts = torch.zeros(classes, dtype=torch.int64, device=targets.device)
    counts[targets.flatten()] = 1
    if divided():
        dist.all_reduce(counts)
    return counts > 0
