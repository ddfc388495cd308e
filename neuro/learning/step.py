"""The forward pass of training and its loss as one module, for a parallel strategy to wrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.learning.objective import Loss, Objective
from neuro.learning.terms import Count
from neuro.models.base import CoreModel
from neuro.models.running import run
from neuro.models.state import map_state

#: maps weights by name, of the model or of earlier changes, to those that replace them
WeightChange = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

#: makes a context to be entered around a forward pass
ForwardContext = Callable[[], AbstractContextManager[Any]]


class TrainStep(nn.Module):
    """Model and objective as one module, so that a parallel strategy wraps the whole step.

    If all terms are local, the forward pass runs without a graph; only the pseudo-losses have one.

    Two modifications apply to the forward pass of training only. `weight_changes` replace named
    parameters by other tensors (noisy or rounded ones; gradients reach the parameters through
    them), and `contexts` are entered around it (noise on layers). Terms use the parameters.
    """

    def __init__(
        self,
        model: CoreModel,
        objective: Objective,
        weight_changes: Sequence[WeightChange] = (),
        contexts: Sequence[ForwardContext] = (),
    ):
        super().__init__()
        self.model = model
        self.objective = objective
        self.weight_changes = weight_changes
        self.contexts = contexts

    def forward(
        self,
        batch: Batch,
        state: Any = None,
        *,
        context: Batch | None = None,
        ahead: Batch | None = None,
        share: float = 1.0,
        totals: Mapping[str, Count] | None = None,
        keep_state: bool = False,
    ) -> Loss:
        """The loss of a batch that starts from `state` (None: the initial state).

        - `context`: steps of the same sequences before the batch, run with a graph but without loss
        - `ahead`: steps from `state` to the start of the next chunk, if chunks overlap
        - `share`: the fraction of the sequences' length that the batch holds
        - `totals`: counts of the update that the batch is a part of (`Objective.counts`)
        - `keep_state`: the loss gets the state after the batch, or after `ahead`
        """
        weights: dict[str, Tensor] = {}
        for change in self.weight_changes:
            weights |= change({**dict(self.model.named_parameters()), **weights})
        with ExitStack() as stack:
            for enter in self.contexts:
                stack.enter_context(enter())
            graph = self.objective.needs_graph and torch.is_grad_enabled()
            stack.enter_context(torch.set_grad_enabled(graph))
            before = (
                state if context is None else run(self.model, context, state, weights=weights).state
            )
            records = self.objective.records(self.model)
            output = run(self.model, batch, before, records, weights)
            if keep_state and ahead is not None:
                with torch.no_grad():
                    end = run(self.model, ahead, state, weights=weights).state
            else:
                end = output.state
        loss: Loss = self.objective(self.model, batch, output, share, totals)
        return loss._replace(state=map_state(Tensor.detach, end)) if keep_state else loss
