"""Statistics of a batch that is divided among processes, equal to those of the whole batch.

Losses that are means do not need these functions, because the trainer weights the part of each
process. Rules that multiply or divide means, or depend on which classes occur, do. Every process
must call the same functions in the same order. A single process exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def divided() -> bool:
    """True if batches are divided among several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.no_grad()
def batch_means(means: Sequence[Tensor], samples: int) -> list[Tensor]:
    """Means over the whole batch, from means over the `samples` samples of this process.

    Tensors have any shapes, and no gradient; they are exchanged in one operation.
    """
    if not divided():
        return [mean.detach() for mean in means]
    parts = [mean.detach().flatten().double() for mean in means]
    sums = torch.cat([*parts, parts[0].new_ones(1)]) * samples
    dist.all_reduce(sums)
    joined = (sums[:-1] / sums[-1]).split([len(part) for part in parts])
    return [new.view(mean.shape).to(mean.dtype) for new, mean in zip(joined, means, strict=True)]


def gathered(value: T) -> list[T]:
    """Values of all processes, in order of ranks; tensors on the CPU or plain values."""
    if not divided():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def occurring(targets: Tensor, classes: int) -> Tensor:
    """Mask of the classes that occur among the targets of the whole batch: `[classes]`, bool."""
    counts = torch.zeros(classes, dtype=torch.int64, device=targets.device)
    counts[targets.flatten()] = 1
    if divided():
        dist.all_reduce(counts)
    return counts > 0
