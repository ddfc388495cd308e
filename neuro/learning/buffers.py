"""Updates that are no gradients: of statistics, thresholds, and weights that a rule changes.

A term returns them beside its loss. They are merged over micro-batches and processes, and applied
only if the update is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Operation = Literal["add", "set"]
Reduction = Literal["sum", "mean"]


class BufferUpdate(NamedTuple):
    """A value that is added to a buffer or parameter, or replaces it, and bounds of the result.

    `value` has the buffer's shape. `reduce`: values of micro-batches and processes are summed, or
    averaged with their numbers of samples as weights.
    """

    value: Tensor
    op: Operation = "add"
    reduce: Reduction = "mean"
    low: float | None = None
    high: float | None = None


def merge_updates(
    total: dict[str, BufferUpdate], updates: Mapping[str, BufferUpdate], share: float | Tensor
) -> None:
    """Merge the updates of a part of the batch, `share` of its samples, into `total`."""
    for name, update in updates.items():
        value = update.value * (share if update.reduce == "mean" else 1.0)
        if name in total:
            value = value + total[name].value
        total[name] = update._replace(value=value)


@torch.no_grad()
def apply_updates(
    buffers: Mapping[str, Tensor],
    updates: Mapping[str, BufferUpdate],
    reduce: Callable[[Tensor, Reduction], Tensor],
) -> None:
    """Apply merged updates in place; `reduce` sums or averages a value over processes."""
    for name, update in updates.items():
        buffer = buffers[name]
        value = reduce(update.value, update.reduce).to(buffer.dtype)
        if update.op == "add":
            buffer.add_(value)
        else:
            buffer.copy_(value)
        if update.low is not None or update.high is not None:
            buffer.clamp_(update.low, update.high)
