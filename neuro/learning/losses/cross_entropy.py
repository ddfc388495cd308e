"""Cross-entropy of the pooled output, over all classes or over those present in the batch."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from neuro.data.base import Batch
from neuro.data.store import NO_LABEL
from neuro.data.uses import TargetKind
from neuro.learning.metrics import cross_entropy
from neuro.learning.terms import Count, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.runtime.distributed import occurring


def keep_present(scores: Tensor, targets: Tensor) -> Tensor:
    """Scores `[..., K]` in which classes that do not occur in the batch have the least value.

    Absent classes then get no gradient, so that learning new classes does not lower the scores of
    old ones (the "labels trick" of Zeno et al. 2018).
    """
    absent = ~occurring(targets[targets != NO_LABEL], scores.shape[-1])
    return scores.masked_fill(absent, torch.finfo(scores.dtype).min)


class ClassTerm(Term):
    """A loss that is a mean over the targets that have a class; -100 is none."""

    targets: tuple[TargetKind, ...] | None = ("class", "class_sequence", "class_map")

    def count(self, batch: Batch, share: float = 1.0) -> Count:
        labelled = (batch.targets != NO_LABEL).sum()
        return labelled * share if batch.targets.ndim == 1 else labelled


class CrossEntropy(ClassTerm):
    """-log softmax(scores / temperature)[target], mean over the targets that have a label.

    `temperature` brings scores of another scale, such as spike counts, into the softmax's range.
    """

    uses_weights = True

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        present_only: bool = False,
        temperature: Annotated[float, Gt(0)] = 1.0,
    ):
        super().__init__(weight)
        self.present_only = present_only
        self.temperature = temperature

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        scores, targets = output.values.float() / self.temperature, batch.targets
        if self.present_only:
            scores = keep_present(scores, targets)
        return TermOutput(cross_entropy(scores, targets, batch.weights))


class AutoregressiveCrossEntropy(CrossEntropy):
    """Cross-entropy of the next symbol, predicted at each step from those before it.

    The paradigm self_supervised makes the targets: the symbols one step later, and none for the
    last step.
    """

    targets = ("token",)
