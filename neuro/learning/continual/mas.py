"""Memory-aware synapses (Aljundi et al. 2018): importances from the sensitivity of the outputs.

loss = strength * sum_i importance_i (w_i - w*_i)^2,    importance_i = sum over phases of
                                                        E_x | d ||f(x)||^2 / d w_i |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from neuro.data.base import Batch
from neuro.learning.continual.importance import mean_over_samples, penalty, trained
from neuro.learning.continual.kept import Kept
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput


class MAS(Term):
    """The quadratic penalty; zero until the first phase has ended.

    `samples`: training samples for the sensitivity, one gradient each. It needs no labels, and f
    are the pooled outputs of any kind.
    """

    needs_earlier_phase = True

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        strength: Annotated[float, Ge(0)] = 1.0,
        samples: Annotated[int, Gt(0)] = 64,
    ):
        super().__init__(weight)
        self.strength = strength
        self.samples = samples
        self.importance = Kept()
        self.anchor = Kept()

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        return TermOutput(self.strength * penalty(model, self.importance, self.anchor))

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        def squared_norm(single: Batch) -> Tensor:
            values = model(single.sequence(), dt_ms=single.dt_ms).values
            return pool(values, single.lengths).float().square().sum()

        found = mean_over_samples(model, batches, self.samples, squared_norm, torch.abs)
        for name, parameter in trained(model).items():
            before = self.importance.get(name, torch.zeros_like(found[name]))
            self.importance[name] = before + found[name]
            self.anchor[name] = parameter.detach().clone()
