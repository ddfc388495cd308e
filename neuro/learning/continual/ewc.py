"""Elastic weight consolidation: a penalty on changes of weights that earlier tasks rely on.

Kirkpatrick et al. 2017. After each phase the diagonal Fisher information of its task is added to a
running sum, and the weights become the anchor (one anchor, as in online EWC of Schwarz et al. 2018
without forgetting):

    loss = lambda/2 * sum_i F_i (w_i - w*_i)^2,    F_i = E_x [ (d log p(y|x) / d w_i)^2 ]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.learning.metrics import CLASS_KINDS
from neuro.learning.objective import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput


class EWC(Term):
    """The quadratic penalty; zero before the first phase has ended.

    `samples` training samples give the Fisher information, one gradient each; `y` is drawn from
    the model's own prediction, which is the definition (the labels' gradient is the "empirical"
    one).
    """

    targets = CLASS_KINDS

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        strength: Annotated[float, Ge(0)] = 1000.0,
        samples: Annotated[int, Gt(0)] = 64,
    ):
        super().__init__(weight)
        self.strength = strength
        self.samples = samples
        self.fisher = nn.ParameterDict()
        self.anchor = nn.ParameterDict()

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        penalty = output.values.new_zeros(())
        for name, parameter in model.named_parameters():
            key = name.replace(".", "/")
            if key in self.fisher and parameter.requires_grad:
                penalty = penalty + (self.fisher[key] * (parameter - self.anchor[key]) ** 2).sum()
        return TermOutput(0.5 * self.strength * penalty)

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, value in self._information(model, learned, batches, pool).items():
            key = name.replace(".", "/")
            if key in self.fisher:
                value = value + self.fisher[key]
            self.fisher[key] = nn.Parameter(value, requires_grad=False)
            self.anchor[key] = nn.Parameter(learned[name].detach().clone(), requires_grad=False)

    def _information(
        self,
        model: CoreModel,
        learned: dict[str, nn.Parameter],
        batches: Iterable[Batch],
        pool: Pool,
    ) -> dict[str, Tensor]:
        """Mean squared gradient of the log-likelihood over single samples."""
        fisher = {name: torch.zeros_like(p) for name, p in learned.items()}
        seen = 0
        for one in _singles(batches, self.samples if learned else 0):
            values = model(one.sequence(), dt_ms=one.dt_ms).values
            scores = pool(values, one.lengths).flatten(0, -2).float()
            labels = torch.distributions.Categorical(logits=scores.detach()).sample()
            loss = F.cross_entropy(scores, labels, reduction="sum")
            grads = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            for total, grad in zip(fisher.values(), grads, strict=True):
                if grad is not None:
                    total += grad.square()
            seen += 1
        return {name: total / max(seen, 1) for name, total in fisher.items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make room for what a checkpoint holds of phases that this object has not seen."""
        for kind in ("fisher", "anchor"):
            for key, value in state_dict.items():
                if key.startswith(f"{prefix}{kind}."):
                    name = key.removeprefix(f"{prefix}{kind}.")
                    stored = nn.Parameter(torch.empty_like(value), requires_grad=False)
                    getattr(self, kind)[name] = stored
        super()._load_from_state_dict(state_dict, prefix, *args)


def _singles(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The first `samples` samples, each as a batch of its own."""
    ones = (batch.rows(slice(i, i + 1)) for batch in batches for i in range(len(batch.targets)))
    return itertools.islice(ones, samples)
