"""What pooled outputs decide, and how good that is: one class each, or values.

Everything that shows, monitors or compares results asks the objective's decision for the name of
its score and for the direction in which it is better. Targets without a label (-100) are neither
learned nor counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.data.store import NO_LABEL
from neuro.data.uses import TargetKind

#: kinds of targets that name one of several classes
CLASS_KINDS: tuple[TargetKind, ...] = ("class", "class_sequence", "class_map", "token")
#: kinds of targets that are numbers
VALUE_KINDS: tuple[TargetKind, ...] = ("value", "value_sequence", "image")


class Score(NamedTuple):
    """The name of what a decision is judged by, and whether more or less of it is better."""

    name: str
    direction: Literal["max", "min"]


class Judged(NamedTuple):
    """Scores summed over the `labelled` targets, so that they add up without rounding."""

    total: Tensor
    labelled: Tensor

    def mean(self) -> Tensor:
        """The score; 0 if no target has a label."""
        return self.total.double() / self.labelled.clamp_min(1)


class Decision(ABC):
    """A rule from pooled outputs `[..., K]` to decisions."""

    score: ClassVar[Score]

    @abstractmethod
    def decide(self, pooled: Tensor) -> Tensor:
        """What the outputs say, without their scale."""

    @abstractmethod
    def loss(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, which validation reports whatever trained."""

    @abstractmethod
    def judge(self, pooled: Tensor, targets: Tensor) -> Judged:
        """How good the decisions are."""


class Classes(Decision):
    """The class with the largest output; accuracy and cross-entropy."""

    score = Score("accuracy", "max")

    def decide(self, pooled: Tensor) -> Tensor:
        return pooled.argmax(-1)

    def loss(self, pooled: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(pooled, targets)

    def judge(self, pooled: Tensor, targets: Tensor) -> Judged:
        correct = (self.decide(pooled) == targets).sum()  # a missing label is no class
        return Judged(correct, (targets != NO_LABEL).sum())


class Values(Decision):
    """The outputs themselves; mean absolute and mean squared error over all entries."""

    score = Score("mae", "min")

    def decide(self, pooled: Tensor) -> Tensor:
        return pooled

    def loss(self, pooled: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(pooled.float(), targets)

    def judge(self, pooled: Tensor, targets: Tensor) -> Judged:
        errors = (pooled.float() - targets).abs().mean(-1)
        return Judged(errors.sum(), torch.tensor(errors.numel(), device=errors.device))


def decision_for(target: str) -> Decision:
    """How outputs are read for a kind of targets."""
    return Values() if target in VALUE_KINDS else Classes()


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(scores)[target] over the targets that have a label; 0 if none has.

    Scores `[..., K]`, targets `[...]` with `NO_LABEL` where there is no label.
    """
    scores, targets = scores.flatten(0, -2).float(), targets.flatten()
    total = F.cross_entropy(scores, targets, ignore_index=NO_LABEL, reduction="sum")
    return total / (targets != NO_LABEL).sum().clamp_min(1)
