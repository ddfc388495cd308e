"""Elastic weight consolidation: penalise changes of weights that are important for earlier tasks.

Kirkpatrick et al. 2017. After each phase the diagonal Fisher information of its task is added to a
running sum, and the current weights become the anchor. There is one anchor, as in online EWC
(Schwarz et al. 2018), but the Fisher information of old tasks does not decay:

    loss = lambda/2 * sum_i F_i (w_i - w*_i)^2,    F_i = E_x [ (d log p(y|x) / d w_i)^2 ]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.learning.metrics import CLASS_KINDS
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput


class EWC(Term):
    """The quadratic penalty; zero until the first phase has ended.

    The Fisher information is estimated from `samples` training samples, one gradient each. As its
    definition demands, `y` is drawn from the model's prediction; the labels would give the
    "empirical" Fisher information instead (Kunstner et al. 2019).
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
            key = name.replace(".", "/")  # keys of a ParameterDict must not contain dots
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
        singles = (
            batch.rows(slice(i, i + 1)) for batch in batches for i in range(len(batch.targets))
        )
        for single in itertools.islice(singles, self.samples if learned else 0):
            values = model(single.sequence(), dt_ms=single.dt_ms).values
            scores = pool(values, single.lengths).flatten(0, -2).float()
            labels = torch.distributions.Categorical(logits=scores.detach()).sample()
            loss = F.cross_entropy(scores, labels, reduction="sum")
            grads = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
            for total, grad in zip(fisher.values(), grads, strict=True):
                if grad is not None:
                    total += grad.square()
            seen += 1
        return {name: total / max(seen, 1) for name, total in fisher.items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Create the entries that a checkpoint has after a phase, and a new object lacks."""
        for kind in ("fisher", "anchor"):
            for key, value in state_dict.items():
                if key.startswith(f"{prefix}{kind}."):
                    name = key.removeprefix(f"{prefix}{kind}.")
                    stored = nn.Parameter(torch.empty_like(value), requires_grad=False)
                    getattr(self, kind)[name] = stored
        super()._load_from_state_dict(state_dict, prefix, *args)
