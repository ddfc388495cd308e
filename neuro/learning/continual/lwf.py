"""Learning without forgetting (Li and Hoiem 2016): distillation from the model before the phase.

    loss = T^2 KL(softmax(old(x) / T) || softmax(new(x) / T)),    over the classes learned before

on the data of the current phase; no data of earlier ones are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor
from torch.func import functional_call

from neuro.data.base import Batch
from neuro.data.store import NO_LABEL
from neuro.learning.continual.kept import Kept
from neuro.learning.metrics import CLASS_KINDS
from neuro.learning.pooling import among
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.ops.kernels.launch import untraced


class LwF(Term):
    """The distillation loss; zero until the first phase has ended.

    The old model is a copy of the weights and buffers at the end of the last phase. It runs in
    evaluation mode and from the initial state.
    """

    targets = CLASS_KINDS
    needs_earlier_phase = True

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        temperature: Annotated[float, Gt(0)] = 2.0,
    ):
        super().__init__(weight)
        self.temperature = temperature
        self.old = Kept()  # the model's state
        self.learned = Kept()  # `classes` [1, K]: which have been learned

    @untraced
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        if not self.old:
            return TermOutput(output.values.new_zeros(()))
        # outputs of all classes: those of the batch may be restricted to its own
        new = self._scores(output.records["values"], batch)
        was_training = model.training
        with torch.no_grad():
            model.eval()
            made = functional_call(
                model, dict(self.old), (batch.sequence(),), {"dt_ms": batch.dt_ms}
            )
            model.train(was_training)
            old = self._scores(made.values, batch)
        loss = F.kl_div(new.log_softmax(-1), old.softmax(-1), reduction="batchmean")
        return TermOutput(self.temperature**2 * loss)

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        for batch in batches:
            if "classes" not in self.learned:
                with torch.no_grad():
                    values = model(batch.sequence(), dt_ms=batch.dt_ms).values
                self.learned["classes"] = torch.zeros(
                    1, values.shape[-1], dtype=torch.bool, device=values.device
                )
            self.learned["classes"][0, batch.targets[batch.targets != NO_LABEL].flatten()] = True
        for name, value in model.state_dict().items():
            self.old[name] = value.detach().clone()

    def _scores(self, values: Tensor, batch: Batch) -> Tensor:
        """Scores `[N, K]` of the classes learned before, divided by the temperature."""
        pooled = self.pool(values, batch.lengths).flatten(0, -2).float()
        return among(pooled / self.temperature, self.learned["classes"].expand(len(pooled), -1))
