"""Measuring a model on a split: loss and score, and the decisions themselves on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.data.base import Loader
from neuro.errors import DataError
from neuro.learning.objective import Objective
from neuro.learning.sequences.streams import Streams
from neuro.models.base import CoreModel


class Sums(NamedTuple):
    """Sums over targets with a label, which add up over processes: loss, score, their number."""

    loss: Tensor
    score: Tensor
    labelled: Tensor

    def metrics(self, score: str) -> dict[str, float]:
        """Means over the targets, `score` being the score's name. DataError if none has a label."""
        count = float(self.labelled)
        if count == 0:
            raise DataError("A split without a single label cannot be measured; label some of it.")
        return {"loss": float(self.loss) / count, score: float(self.score) / count}


class Predictions(NamedTuple):
    """In the order of the split: pooled outputs `[N, K]`, what they decide, and the targets.

    Per step in seq2seq, `[N, T, K]`. Decisions and targets are classes `[N]`, or values `[N, K]`.
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
) -> Sums:
    """Loss and decisions over this process's share of a split; the model's mode is restored.

    Batches start from rest, or with `streams` where the one before them ended.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for pooled, targets in _outputs(model, objective, loader, device, streams):
        loss = objective.decision.loss(pooled, targets).double()
        score, count = (x.double() for x in objective.decision.judge(pooled, targets))
        sums += torch.stack([loss * count, score, count])
    return Sums(*sums)


@torch.no_grad()
def predict(
    model: CoreModel, objective: Objective, loader: Loader, device: torch.device
) -> Predictions:
    """Outputs and decisions for every sample of this process's share of a split."""
    found = [(p.cpu(), y.cpu()) for p, y in _outputs(model, objective, loader, device)]
    outputs = torch.cat([pooled for pooled, _ in found])
    targets = torch.cat([targets for _, targets in found])
    return Predictions(outputs, objective.decision.decide(outputs), targets)


def _outputs(
    model: CoreModel,
    objective: Objective,
    loader: Loader,
    device: torch.device,
    streams: Streams | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    training = model.training
    model.eval()
    try:
        for batch in loader.batches():
            if len(batch.targets) == 0:  # a process without a share of the last batch
                continue
            batch = batch.map(lambda tensor: tensor.to(device))
            state = None if streams is None else streams.start(len(batch.targets))
            output = model(batch.sequence(), state, dt_ms=batch.dt_ms)
            if streams is not None:
                streams.keep(output.state)
            yield objective.pool(output.values), batch.targets
    finally:
        model.train(training)
