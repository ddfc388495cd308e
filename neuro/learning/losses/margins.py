"""Losses on the gaps between a class's score and those of the others.

Scores `[N, K]` are pooled outputs (in seq2seq those of each step), y_t is the score of the label.
Rows without a label (-100) are left out.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from neuro.config.types import Positive
from neuro.data.base import Batch, TaskSpec
from neuro.data.store import NO_LABEL
from neuro.errors import ConfigError
from neuro.learning.losses.cross_entropy import ClassTerm
from neuro.learning.terms import TermOutput
from neuro.models.base import CoreModel, ModelOutput

NotNegative = Annotated[float, Ge(0)]


class Rows(NamedTuple):
    """Scores `[N, K]` with labels `[N]`; `share` `[N]` is each row's part of the mean over rows.

    Rows without a label have the share 0, and 0 for a label.
    """

    scores: Tensor
    labels: Tensor
    share: Tensor

    def mean(self, costs: Tensor) -> Tensor:
        """Mean of costs `[N]` over the rows that have a label."""
        return (self.share * costs).sum()

    def gap(self) -> Tensor:
        """The label's score above the best of the others, `[N]`."""
        label = F.one_hot(self.labels, self.scores.shape[1]).bool()
        others = self.scores.masked_fill(label, -torch.inf)
        return self.scores[label] - others.amax(1)


def rows_of(batch: Batch, output: ModelOutput) -> Rows:
    """All decisions of a batch with their labels."""
    scores, targets = output.values.flatten(0, -2), batch.targets.flatten()
    scores = scores if scores.dtype == torch.float64 else scores.float()
    labelled = (targets != NO_LABEL).to(scores.dtype)
    return Rows(scores, targets.clamp_min(0), labelled / labelled.sum().clamp_min(1))


class MarginTerm(ClassTerm):
    """A loss on classes, of which there are at least two."""

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if spec.outputs < 2:
            raise ConfigError(
                f"{type(self).__name__} compares classes; task '{spec.task}' has {spec.outputs}. "
                "Set data.outputs to 2 or more."
            )


class TopGap(MarginTerm):
    """A wrong decision costs 1, a right one max(0, theta - (top1 - top2)) / theta; the mean.

    theta is `separation_threshold`; `factor` is a factor of the mean. For wrong decisions it is
    constant and has no gradient, so that another term is needed, such as cross_entropy.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        separation_threshold: Positive = 0.1,
        factor: NotNegative = 1.0,
    ):
        super().__init__(weight)
        self.separation_threshold = separation_threshold
        self.factor = factor

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        rows = rows_of(batch, output)
        top = rows.scores.topk(2, 1)
        missing = self.separation_threshold - (top.values[:, 0] - top.values[:, 1])
        right = top.indices[:, 0] == rows.labels
        costs = torch.where(right, missing.clamp_min(0) / self.separation_threshold, 1.0)
        return TermOutput(self.factor * rows.mean(costs))


class Gap(MarginTerm):
    """Mean over samples of sum over c != t of max(0, y_c - y_t + margin).

    The multi-class hinge loss of Weston and Watkins 1999.
    """

    def __init__(self, weight: NotNegative = 1.0, margin: Positive = 1.0):
        super().__init__(weight)
        self.margin = margin

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        rows = rows_of(batch, output)
        own = rows.scores.gather(1, rows.labels[:, None])
        hinge = (rows.scores - own + self.margin).clamp_min(0).sum(1) - self.margin
        return TermOutput(rows.mean(hinge))


class RichMargin(MarginTerm):
    """A squared hinge on the gap, where it is small, with four regularisers of the scores.

    With gap = y_t - max of the others, p = softmax(y), q = softmax(y + noise * y * n) for n ~
    N(0, 1), e = y / |y|, and m_c the direction of the mean e of class c in the batch:

        mean of sigmoid(-gap) * max(0, margin - gap)^2        (1 - sigmoid(gap): the hard ones)
        + consistency * mean KL(p || q)                       small changes of scores change little
        + entropy * mean of H(p)                              below 0: against overconfidence
        + within * mean of (1 - cos(y, m_t))                  samples of a class point one way
        + between * mean over pairs of classes a < b of max(0, cos(m_a, m_b))     and classes apart

    Pereyra et al. 2017 is the source of the entropy term.
    """

    def __init__(
        self,
        weight: NotNegative = 1.0,
        margin: Positive = 0.5,
        consistency: NotNegative = 0.3,
        noise: Positive = 0.05,
        entropy: float = -0.1,
        within: NotNegative = 0.2,
        between: NotNegative = 0.1,
    ):
        super().__init__(weight)
        self.margin = margin
        self.consistency = consistency
        self.noise = noise
        self.entropy = entropy
        self.within = within
        self.between = between

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        rows = rows_of(batch, output)
        y, gap = rows.scores, rows.gap()
        hinge = torch.sigmoid(-gap) * (self.margin - gap).clamp_min(0).square()
        noisy = y * (1 + self.noise * torch.randn_like(y))
        log_p, log_q = y.log_softmax(1), noisy.log_softmax(1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(1)
        entropy = -(log_p.exp() * log_p).sum(1)
        within, between = _cosines(rows)
        return TermOutput(
            rows.mean(hinge + self.consistency * divergence + self.entropy * entropy)
            + self.within * within
            + self.between * between
        )


def _cosines(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean of 1 - cosine to the class mean, and mean positive cosine between class means."""
    directions = F.normalize(rows.scores, dim=1)
    member = F.one_hot(rows.labels, rows.scores.shape[1]).to(directions.dtype)
    member = member * (rows.share > 0)[:, None]
    means = F.normalize(member.T @ directions, dim=1)  # zero for a class that does not occur
    within = rows.mean(1 - (directions * means[rows.labels]).sum(1))
    classes = (member.sum(0) > 0).sum()
    likeness = (means @ means.T).clamp_min(0).triu(1).sum()
    return within, likeness / (classes * (classes - 1) / 2).clamp_min(1)
