"""Measuring a model on a split: loss and accuracy, and the decisions themselves on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.data.base import Loader
from neuro.learning.objective import Objective
from neuro.learning.streams import Streams
from neuro.models.base import CoreModel


class Sums(NamedTuple):
    """Sums over samples, which add up over processes: loss, correct decisions, samples."""

    loss: Tensor
    correct: Tensor
    samples: Tensor

    def metrics(self) -> dict[str, float]:
        """Means over the samples."""
        count = float(self.samples)
        return {"loss": float(self.loss) / count, "accuracy": float(self.correct) / count}


class Predictions(NamedTuple):
    """Decisions in the order of the split: pooled outputs `[N, K]`, classes and labels `[N]`."""

    scores: Tensor
    classes: Tensor
    labels: Tensor


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
    for pooled, labels in _outputs(model, objective, loader, device, streams):
        count = len(labels)
        decisions = labels.numel() / count
        correct = (objective.decide(pooled) == labels).sum() / decisions
        loss = objective.task_loss(pooled, labels) * count
        sums += torch.stack([loss.double(), correct.double(), loss.new_tensor(count).double()])
    return Sums(*sums)


@torch.no_grad()
def predict(
    model: CoreModel, objective: Objective, loader: Loader, device: torch.device
) -> Predictions:
    """Scores and decisions for every sample of this process's share of a split."""
    outputs = [(p.cpu(), y.cpu()) for p, y in _outputs(model, objective, loader, device)]
    scores = torch.cat([pooled for pooled, _ in outputs])
    labels = torch.cat([targets for _, targets in outputs])
    return Predictions(scores, objective.decide(scores), labels)


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
