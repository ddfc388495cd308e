"""Truncated backpropagation through time: sequences in chunks, each with a loss of its own.

A chunk of `length` steps goes on from the state in which the one before it ended, without its
graph, and is back-propagated before the next one is run: memory grows with the chunk, not with
the sequence. With a `stride` below the length, chunks overlap: a chunk begins `stride` steps after
the one before it and runs what that one has seen already again, with a graph but without a loss,
so that gradients reach back over the overlap too (Williams and Peng 1990, truncated
backpropagation with h' = stride and h = length).

The loss of a sequence of T steps is the mean of its chunks' losses, each weighted with its share
n/T of the steps. In seq2seq that is the loss of the whole sequence. In seq2static every chunk has
to name the class from its own steps: mean pooling is the mean over the chunk, sum pooling the
chunk's sum times T/n, which is what the whole sequence would sum up to if all of it were like the
chunk. The class of the sequence, and so the score, comes from the scores of all chunks together
as without truncation. The maximum and the last step are not defined for a part of a sequence.
Local rules learn from every chunk as from a sequence; their traces begin anew with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.data.base import Batch
from neuro.learning.objective import Increment, Loss, Objective, add_increments


class Chunk(NamedTuple):
    """A part of the sequences of a batch.

    - `batch`: the steps whose loss counts
    - `context`: steps before them that are run again; None where chunks do not overlap
    - `ahead`: steps from this chunk's beginning to the next one's; None where the chunk's end is
      where the next one begins, or the sequences end
    - `share`: how much of the sequences `batch` is
    """

    batch: Batch
    context: Batch | None = None
    ahead: Batch | None = None
    share: float = 1.0


def chunks(batch: Batch, length: int, stride: int, *, per_step: bool) -> Iterator[Chunk]:
    """The chunks of a batch in order; `per_step` says that targets are `[B, T]`."""
    steps = batch.steps
    start, seen = 0, 0
    while seen < steps:
        end = min(start + length, steps)
        overlap = start + stride < end < steps
        yield Chunk(
            batch.part(seen, end, per_step=per_step),
            context=batch.part(start, seen, per_step=per_step) if start < seen else None,
            ahead=batch.part(start, start + stride, per_step=per_step) if overlap else None,
            share=(end - seen) / steps,
        )
        start, seen = start + stride, end


def joined(
    objective: Objective, targets: Tensor, losses: Sequence[Loss], shares: Sequence[float]
) -> Loss:
    """What the chunks' losses make of the whole sequences; `total` has no graph any more."""
    if len(losses) == 1:
        return losses[0]._replace(total=losses[0].total.detach())
    increments: dict[str, Increment] = {}
    for loss, share in zip(losses, shares, strict=True):
        add_increments(increments, loss.increments, share)
    if objective.mapping == "seq2static":
        pooled = _mean([loss.pooled for loss in losses], shares)
    else:
        pooled = torch.cat([loss.pooled for loss in losses], 1)
    return Loss(
        total=_mean([loss.total.detach() for loss in losses], shares),
        reported=_mean([loss.reported for loss in losses], shares),
        terms={
            name: _mean([loss.terms[name] for loss in losses], shares) for name in losses[0].terms
        },
        increments=increments,
        scores={objective.score.name: objective.decision.judge(pooled, targets)},
        pooled=pooled,
        state=losses[-1].state,
    )


def check_truncation(objective: Objective) -> list[str]:
    """Why an objective's loss cannot be taken chunk by chunk, if it cannot."""
    if objective.mapping == "none":
        return [
            "trainer.tbptt: cuts sequences of outputs; with objective.mapping=none outputs have "
            "any shape. Set trainer.tbptt=null."
        ]
    if objective.mapping == "seq2seq" or objective.pooling.by_parts:
        return []
    return [
        f"trainer.tbptt: the pooling '{objective.pooling.kind}' is defined for whole sequences "
        "alone. Choose objective.pooling=mean or sum, or set trainer.tbptt=null."
    ]


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([v * share for v, share in zip(values, shares, strict=True)]).sum(0)
