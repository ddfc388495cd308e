"""A loss that keeps memories below their capacity."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Interval

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Budgeted


class MemoryBudget(Term):
    """Mean over memories of max(0, u - threshold), u being the used fraction of a budget.

    A memory that is at its limit can only store by forgetting at once.
    """

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 0.01,
        threshold: Annotated[float, Interval(ge=0, lt=1)] = 0.9,
    ):
        super().__init__(weight)
        self.threshold = threshold

    def records(self, model: CoreModel) -> tuple[str, ...]:
        if not isinstance(model, Budgeted):
            raise ConfigError(
                f"{type(self).__name__} limits memories; {type(model).__name__} has none with a "
                "budget. Use model=memory_lm."
            )
        return tuple(model.budget_records().values())

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        used = torch.cat([output.records[name].flatten() for name in self.records(model)])
        return TermOutput((used - self.threshold).clamp_min(0).mean())
