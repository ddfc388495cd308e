"""Metrics of pooled outputs, and the loss of a kind of targets.

A metric turns the outputs and targets of a batch into sums, which add up over batches and
processes, and the sums of a split into one number. Targets without a label (-100) are left out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from neuro.config.trainer import Direction
from neuro.data.base import TaskSpec
from neuro.data.store import NO_LABEL
from neuro.data.uses import TargetKind
from neuro.errors import ConfigError, DataError

#: kinds of targets that name one of several classes
CLASS_KINDS: tuple[TargetKind, ...] = ("class", "class_sequence", "class_map", "token")
#: kinds of targets that are numbers
VALUE_KINDS: tuple[TargetKind, ...] = ("value", "value_sequence", "image")


class Metric(ABC):
    """A measure of the outputs of a split.

    Outputs are pooled, `[..., K]`; targets are classes `[...]` or values of the outputs' shape.
    """

    #: arguments that the program gives to a constructor that has them: the specification of a task
    supplied: tuple[str, ...] = ("spec",)

    #: whether more or less of it is better
    direction: ClassVar[Direction]

    #: kinds of targets that it can measure
    targets: ClassVar[tuple[TargetKind, ...]]

    #: whether training batches are measured, too; not where that takes as long as an update
    in_training: ClassVar[bool] = True

    #: number of sums; the last one is the number of measured targets
    size: ClassVar[int] = 2

    @abstractmethod
    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sums over the targets that have a label, `[size]`, float64."""

    def value(self, sums: Tensor) -> float:
        """The metric from the sums of a split; by default the mean of the first one."""
        return float(sums[0]) / float(sums[-1])


class Accuracy(Metric):
    """Fraction of targets whose class has one of the `top` largest outputs."""

    direction = "max"
    targets = CLASS_KINDS

    def __init__(self, top: Annotated[int, Gt(0)] = 1):
        self.top = top

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.top == 1:
            right = outputs.argmax(-1) == targets  # a missing label (-100) equals no class
        else:
            classes = outputs.topk(min(self.top, outputs.shape[-1]), -1).indices
            right = (classes == targets.unsqueeze(-1)).any(-1)
        return torch.stack([right.sum(), (targets != NO_LABEL).sum()]).double()


class MeanAbsoluteError(Metric):
    """Mean of |output - target| over all entries."""

    direction = "min"
    targets = VALUE_KINDS

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs.float() - targets).abs().mean(-1)
        return _sums(errors.sum(), errors.numel())


class TaskLoss(Metric):
    """The loss of a kind of targets, reported on every split, independent of the trained terms."""

    direction: ClassVar[Direction] = "min"

    @abstractmethod
    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the targets that have a label, 0 if none has; a scalar."""

    @abstractmethod
    def count(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of targets that `mean` is a mean over; a scalar."""

    @abstractmethod
    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the labelled targets of each sample, `[B]`."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        count = self.count(outputs, targets).double()
        return torch.stack([self.mean(outputs, targets).double() * count, count])


class NegativeLogLikelihood(TaskLoss):
    """Mean of -log softmax(outputs)[target], in nats."""

    targets = CLASS_KINDS

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def count(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (targets != NO_LABEL).sum()

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(
            outputs.flatten(0, -2).float(),
            targets.flatten(),
            ignore_index=NO_LABEL,
            reduction="none",
        ).view(len(targets), -1)
        labelled = (targets != NO_LABEL).view(len(targets), -1).sum(1)
        return losses.sum(1) / labelled.clamp_min(1)


class MeanSquaredError(TaskLoss):
    """Mean of (output - target)^2 over all entries."""

    targets = VALUE_KINDS

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(outputs, targets)

    def count(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor(targets[..., 0].numel(), device=outputs.device)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.float() - targets).square().flatten(1).mean(1)


class Perplexity(NegativeLogLikelihood):
    """exp of the mean negative log-likelihood: an effective number of equally likely classes."""

    def value(self, sums: Tensor) -> float:
        mean = super().value(sums)
        return math.exp(mean) if mean < 700 else math.inf


class Bits(NegativeLogLikelihood):
    """The mean negative log-likelihood in bits per target."""

    def value(self, sums: Tensor) -> float:
        return super().value(sums) / math.log(2)


class BitsPerByte(NegativeLogLikelihood):
    """Negative log-likelihood in bits per UTF-8 byte of the text that the targets encode.

    It is the sum of -log2 p over all targets, the ends of documents included, divided by the bytes
    of these targets: the length of the text as a code, which does not depend on the tokenizer.
    ConfigError for a task whose symbols have no bytes (`TargetSpec.symbol_bytes`).
    """

    targets = ("token",)
    size = 3

    def __init__(self, spec: TaskSpec):
        if spec.targets.symbol_bytes is None:
            raise ConfigError(
                "metric.bits_per_byte: the targets of this data are not symbols of a text, so they "
                "have no bytes. Use metric=[bits], which are bits per target, or data=text."
            )
        self._bytes = torch.tensor(spec.targets.symbol_bytes)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._bytes = self._bytes.to(targets.device)
        labelled = targets != NO_LABEL
        size = self._bytes[targets.clamp_min(0)].mul(labelled).sum().double()
        nats, count = super().sums(outputs, targets)
        return torch.stack([nats, size, count])

    def value(self, sums: Tensor) -> float:
        nats, size, _ = sums.tolist()
        return nats / (math.log(2) * size) if size else math.inf


class PSNR(MeanSquaredError):
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared error), in dB."""

    direction = "max"

    def __init__(self, peak: Annotated[float, Gt(0)] = 1.0):
        self.peak = peak

    def value(self, sums: Tensor) -> float:
        error = super().value(sums)
        return 10 * math.log10(self.peak**2 / error) if error > 0 else math.inf


def default_metrics(target: str) -> dict[str, Metric]:
    """Metrics of a kind of targets, if the config names none."""
    return {"accuracy": Accuracy()} if target in CLASS_KINDS else {"mae": MeanAbsoluteError()}


def task_loss(target: str) -> TaskLoss:
    """The loss of a kind of targets."""
    return NegativeLogLikelihood() if target in CLASS_KINDS else MeanSquaredError()


class MetricSums:
    """The sums of several metrics in one vector, to be summed over batches and processes."""

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device):
        self._metrics = metrics
        size = sum(metric.size for metric in metrics.values())
        self.sums = torch.zeros(size, dtype=torch.float64, device=device)
        self.samples = 0  # of this process

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.samples += len(targets)
        self.sums += torch.cat([m.sums(outputs, targets) for m in self._metrics.values()])

    def values(self) -> dict[str, float]:
        """The metrics by name. DataError if no target has a label."""
        parts = self.sums.cpu().split([metric.size for metric in self._metrics.values()])
        if any(sums[-1] == 0 for sums in parts):
            raise DataError("A split without a single label cannot be measured; label some of it.")
        return {
            name: metric.value(sums)
            for (name, metric), sums in zip(self._metrics.items(), parts, strict=True)
        }


def squared_error(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of (output - target)^2 over all entries; ConfigError if their shapes differ.

    `weights [B]` multiply the terms of each sample.
    """
    _check_shapes(outputs, targets)
    if weights is None:
        return F.mse_loss(outputs.float(), targets)
    return ((outputs.float() - targets).square() * _spread(weights, targets)).mean()


def smooth_l1(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, beta: float = 1.0
) -> Tensor:
    """Mean of d^2 / (2 beta) where d = |output - target| < beta, else d - beta/2.

    Otherwise as `squared_error`.
    """
    _check_shapes(outputs, targets)
    if weights is None:
        return F.smooth_l1_loss(outputs.float(), targets, beta=beta)
    losses = F.smooth_l1_loss(outputs.float(), targets, beta=beta, reduction="none")
    return (losses * _spread(weights, targets)).mean()


def cross_entropy(scores: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of -log softmax(scores)[target] over the targets that have a label; 0 if none has.

    Scores `[..., K]`, targets `[...]` with `NO_LABEL` where there is no label. `weights [B]`
    multiply the terms of each sample.
    """
    per_target = None if weights is None else _spread(weights, targets).flatten()
    scores, targets = scores.flatten(0, -2).float(), targets.flatten()
    if per_target is None:
        total = F.cross_entropy(scores, targets, ignore_index=NO_LABEL, reduction="sum")
    else:
        losses = F.cross_entropy(scores, targets, ignore_index=NO_LABEL, reduction="none")
        total = (losses * per_target).sum()
    return total / (targets != NO_LABEL).sum().clamp_min(1)


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    """ConfigError if outputs do not have the shape of the targets."""
    if outputs.shape != targets.shape:
        raise ConfigError(
            f"objective: the model's outputs of a sample have shape {list(outputs.shape[1:])}, its "
            f"targets {list(targets.shape[1:])}. Use a model whose outputs have the targets' shape."
        )


def _spread(weights: Tensor, targets: Tensor) -> Tensor:
    """Weights `[B]` of samples for each of their targets `[B, ...]`."""
    return weights.view(-1, *(1,) * (targets.ndim - 1)).expand_as(targets)


def _sums(total: Tensor, count: int) -> Tensor:
    return torch.stack([total.double(), total.new_tensor(count, dtype=torch.float64)])
