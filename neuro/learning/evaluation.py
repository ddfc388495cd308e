"""Evaluate a model on a split: loss and metrics, or outputs and decisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.data.base import Loader
from neuro.learning.metrics import MetricSums
from neuro.learning.objective import Objective
from neuro.learning.sequences.streams import Streams
from neuro.learning.step import ForwardContext
from neuro.models.base import CoreModel
from neuro.models.running import run


class Predictions(NamedTuple):
    """Pooled outputs `[N, K]` in the order of the split, the decisions from them, and the targets.

    Decisions and targets are classes `[N]` or values `[N, K]`. In seq2seq all have steps `[N, T]`.
    """

    outputs: Tensor
    decisions: Tensor
    targets: Tensor


@torch.no_grad()
def evaluate(
    model: CoreModel,
    objective: Objective,
    loader: Loader,
    device: torch.device,
    streams: Streams | None = None,
    forward: ForwardContext = nullcontext,
) -> MetricSums:
    """Sums of the loss and the metrics over this process's share of a split.

    The model's mode is restored. With `streams` each batch continues the sequences of the previous
    one. `forward` makes a context for each forward pass.
    """
    measured = MetricSums(objective.measures, device)
    for pooled, targets in _outputs(model, objective, loader, device, streams, forward):
        measured.add(pooled, targets)
    return measured


@torch.no_grad()
def predict(
    model: CoreModel,
    objective: Objective,
    loader: Loader,
    device: torch.device,
    streams: Streams | None = None,
) -> Predictions:
    """Outputs and decisions for every sample of this process's share of a split."""
    found = [(p.cpu(), y.cpu()) for p, y in _outputs(model, objective, loader, device, streams)]
    outputs = torch.cat([pooled for pooled, _ in found])
    targets = torch.cat([targets for _, targets in found])
    return Predictions(outputs, objective.decide(outputs), targets)


def _outputs(
    model: CoreModel,
    objective: Objective,
    loader: Loader,
    device: torch.device,
    streams: Streams | None,
    forward: ForwardContext = nullcontext,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pooled outputs and targets of each batch, with the model in evaluation mode."""
    training = model.training
    model.eval()
    try:
        for batch in loader.batches():
            if len(batch.targets) == 0:  # a process without a share of the last batch
                continue
            batch = batch.map(lambda tensor: tensor.to(device, non_blocking=True))
            state = None if streams is None else streams.start(batch)
            with forward():
                output = run(model, batch, state)
            if streams is not None:
                streams.keep(output.state)
            yield objective.outputs(output.values, batch), batch.targets
    finally:
        model.train(training)
