"""Truncated backpropagation through time: sequences in chunks, each with its own loss.

A chunk of `length` steps starts from the final state of the previous one, without its graph, and is
back-propagated before the next one is run: memory grows with the chunk, not with the sequence. With
a `stride` below the length, chunks overlap: a chunk begins `stride` steps after the previous one
and repeats the overlapping steps, with a graph but without a loss, so that gradients reach back
over the overlap (Williams and Peng 1990, truncated backpropagation with h' = stride, h = length).

The loss of a sequence of T steps is the mean of its chunks' losses, each weighted by its fraction
n/T of the steps. In seq2seq that is the loss of the whole sequence. In seq2static every chunk
predicts the class from its own steps: mean, max, rms and ewa pool over the chunk; sum pooling is
the chunk's sum times T/n, an extrapolation to the whole sequence. If only the last steps are pooled
(last, mean_last_n), only the last chunk has a loss, and earlier chunks provide its initial state.
The score of the sequence is combined from the pooled outputs of all chunks (`Pooling.joined`).
Local rules learn from every chunk as from a sequence, with new traces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.config.trainer import Truncation
from neuro.data.base import Batch, TaskSpec
from neuro.learning.buffers import BufferUpdate, merge_updates
from neuro.learning.objective import CountedMean, Loss, Objective, TermLoss


class Chunk(NamedTuple):
    """A part of the sequences of a batch.

    - `batch`: the steps that have a loss
    - `context`: steps before them that are repeated; None if chunks do not overlap
    - `ahead`: steps from the start of this chunk to that of the next one; None if the next one
      starts at the end of this one, or the sequences end
    - `share`: the fraction of the sequences' length in `batch`
    """

    batch: Batch
    context: Batch | None = None
    ahead: Batch | None = None
    share: float = 1.0


def chunks(
    batch: Batch, length: int, stride: int, *, per_step: bool, only_last: bool = False
) -> Iterator[Chunk]:
    """The chunks of a batch in order; `per_step` says that targets are `[B, T]`.

    `only_last`: the last chunk has all of the loss.
    """
    steps = batch.steps
    start, seen = 0, 0
    while seen < steps:
        end = min(start + length, steps)
        overlap = start + stride < end < steps
        yield Chunk(
            batch.part(seen, end, per_step=per_step),
            context=batch.part(start, seen, per_step=per_step) if start < seen else None,
            ahead=batch.part(start, start + stride, per_step=per_step) if overlap else None,
            share=float(end == steps) if only_last else (end - seen) / steps,
        )
        start, seen = start + stride, end


def joined(
    objective: Objective, targets: Tensor, losses: Sequence[Loss], shares: Sequence[float]
) -> Loss:
    """Join the losses of chunks to that of the sequences; `total` has no graph."""
    if len(losses) == 1:
        return losses[0]._replace(total=losses[0].total.detach())
    updates: dict[str, BufferUpdate] = {}
    for loss, share in zip(losses, shares, strict=True):
        merge_updates(updates, loss.updates, share)
    if objective.mapping == "seq2static":
        pooled = objective.pooling.joined([loss.pooled for loss in losses], shares)
    else:
        pooled = torch.cat([loss.pooled for loss in losses], 1)
    terms = {}
    for name, first in losses[0].terms.items():
        parts = [loss.terms[name] for loss in losses]
        mean, count = _joined_mean(parts)
        logged = {
            key: _joined_mean([part._replace(mean=part.logged[key]) for part in parts])[0]
            for key in first.logged
        }
        terms[name] = TermLoss(mean, first.weight, count, logged)
    tasks = [loss.task for loss in losses if loss.task is not None]
    return Loss(
        total=torch.stack([loss.total.detach() for loss in losses]).sum(0),
        terms=terms,
        task=_joined_mean(tasks) if tasks else None,
        updates=updates,
        metrics=objective.measure(pooled, targets),
        pooled=pooled,
        state=losses[-1].state,
    )


def check_truncation(
    objective: Objective, settings: Truncation, tasks: Iterable[TaskSpec]
) -> Iterator[str]:
    """Problems of an objective whose loss is not defined for chunks of these tasks."""
    if objective.mapping == "none":
        yield (
            "trainer.tbptt: cuts sequences of outputs; with objective.mapping=none outputs have "
            "any shape. Set trainer.tbptt=null."
        )
    tasks = list(tasks)
    if objective.mapping == "seq2static" and any(spec.padded for spec in tasks):
        yield (
            "trainer.tbptt: sequences of different lengths cannot be pooled in chunks. Set "
            "trainer.tbptt=null, or use objective.mapping=seq2seq."
        )
    n = objective.pooling.n
    if objective.mapping != "seq2static" or n is None:
        return
    for spec in tasks:
        for frames, _ in spec.timings:
            past = math.ceil(max(frames - settings.length, 0) / settings.steps)
            before = settings.length + (past - 1) * settings.steps if past else 0
            if n > frames - before:
                yield (
                    f"objective.pooling.n: got {n}, but with trainer.tbptt the last chunk of task "
                    f"'{spec.task}' ({frames} frames) has {frames - before} new frames, and only "
                    "it has a loss. Choose a smaller n or another trainer.tbptt.length."
                )


def _joined_mean(parts: Sequence[CountedMean | TermLoss]) -> CountedMean:
    """The mean over several parts, each a mean over its count."""
    counts = torch.stack([torch.as_tensor(part.counted, dtype=torch.float64) for part in parts])
    total = counts.sum()
    weights = counts / total.clamp_min(1e-12)
    means = torch.stack([part.mean for part in parts])
    return CountedMean((means * weights.to(means)).sum(0), total)
