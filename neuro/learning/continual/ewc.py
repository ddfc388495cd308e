"""Elastic weight consolidation: penalise changes of weights that are important for earlier tasks.

    loss = lambda/2 * sum_i F_i (w_i - w*_i)^2,    F_i = E_x [ (d log p(y|x) / d w_i)^2 ]

- online (Schwarz et al. 2018): the diagonal Fisher information F of a finished phase is added to
  `decay` times the one so far, and the anchor w* becomes the current weights.
- per_task (Kirkpatrick et al. 2017): each task k has a penalty F_k with an anchor w_k of its own.
  Their sum is, but for a constant, one penalty of the same form (Huszar 2018), with
  F = sum_k F_k and w* = sum_k F_k w_k / F; so memory does not grow with the number of tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.learning.continual.importance import mean_over_samples, penalty, trained
from neuro.learning.continual.kept import Kept
from neuro.learning.metrics import CLASS_KINDS
from neuro.learning.pooling import among
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput


class EWC(Term):
    """The quadratic penalty; zero until the first phase has ended.

    The Fisher information is estimated from `samples` training samples, one gradient each. As its
    definition demands, `y` is drawn from the model's prediction; the labels would give the
    "empirical" Fisher information instead (Kunstner et al. 2019).

    `every`: within a phase, the last micro-batch is consolidated like a finished phase after every
    so many updates, for data without boundaries between tasks; for kind=online.
    """

    targets = CLASS_KINDS

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        strength: Annotated[float, Ge(0)] = 1000.0,
        samples: Annotated[int, Gt(0)] = 64,
        kind: Literal["online", "per_task"] = "online",
        decay: Annotated[float, Interval(ge=0, le=1)] = 1.0,
        every: Annotated[int, Gt(0)] | None = None,
    ):
        super().__init__(weight)
        self.strength = strength
        self.samples = samples
        self.kind = kind
        self.decay = decay
        self.every = every
        self.needs_earlier_phase = every is None
        self.fisher = Kept()
        self.anchor = Kept()

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if self.kind == "per_task" and (self.every is not None or self.decay != 1):
            key = "decay" if self.every is None else "every"
            raise ConfigError(
                f"{key}: kind=per_task keeps the information of each task as it is; use "
                "kind=online, or decay=1 and every=null."
            )

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        return TermOutput(0.5 * self.strength * penalty(model, self.fisher, self.anchor))

    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        if self.every is not None and step % self.every == 0:
            self.consolidate(model, [batch], self.pool)

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        def log_likelihood(single: Batch) -> Tensor:
            values = model(single.sequence(), dt_ms=single.dt_ms).values
            scores = among(pool(values, single.lengths), single.choices).flatten(0, -2).float()
            labels = torch.distributions.Categorical(logits=scores.detach()).sample()
            return F.cross_entropy(scores, labels, reduction="sum")

        found = mean_over_samples(model, batches, self.samples, log_likelihood, torch.square)
        for name, parameter in trained(model).items():
            information, weights = found[name], parameter.detach().clone()
            if name in self.fisher:
                before, anchor = self.fisher[name] * self.decay, self.anchor[name]
                information = information + before
                if self.kind == "per_task":
                    mean = (found[name] * weights + before * anchor) / information
                    weights = torch.where(information > 0, mean, weights)
            self.fisher[name], self.anchor[name] = information, weights
