"""A plastic family: hidden weights that a Hebbian rule changes, a readout that gradients change."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from neuro.data.base import Batch, TaskSpec
from neuro.learning.buffers import BufferUpdate
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput

Count = Annotated[int, Gt(0)]
Positive = Annotated[float, Gt(0)]


class PlasticModel(CoreModel):
    """tanh units; their weights `plastic` `[units, inputs]` are a buffer. Records `hidden`."""

    plastic: Tensor
    mean_rate: Tensor
    updates: Tensor

    def __init__(self, spec: TaskSpec, units: Count = 10):
        super().__init__()
        size = torch.Size(spec.inputs.shape).numel()
        self.register_buffer("plastic", 0.3 * torch.randn(units, size))
        self.register_buffer("mean_rate", torch.zeros(units))
        self.register_buffer("updates", torch.zeros(()))
        self.readout = nn.Linear(units, spec.outputs)

    @property
    def plastic_buffers(self) -> dict[str, str]:
        return dict.fromkeys(("plastic", "mean_rate"), "add the term oja")

    @property
    def recordable(self) -> tuple[str, ...]:
        return ("hidden",)

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        hidden = torch.tanh(inputs.flatten(2) @ self.plastic.T)
        records = {"hidden": hidden.transpose(0, 1)} if "hidden" in record else {}
        return ModelOutput(self.readout(hidden), (), records)


class Oja(Term):
    """Oja's rule for `plastic`, bounded; `mean_rate` is set to the batch's mean activity."""

    needs_graph = False

    def __init__(self, weight: Positive = 1.0, rate: Positive = 0.05, bound: Positive = 0.5):
        super().__init__(weight)
        self.rate = rate
        self.bound = bound

    def records(self, model: CoreModel) -> tuple[str, ...]:
        return ("hidden",)

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        return ("plastic", "mean_rate")

    @torch.no_grad()
    def forward(self, model: PlasticModel, batch: Batch, output: ModelOutput) -> TermOutput:
        x = batch.sequence().flatten(2).mean(1)
        y = output.records["hidden"].mean(0)
        change = self.rate * (y.T @ x / len(x) - y.square().mean(0)[:, None] * model.plastic)
        updates = {
            "plastic": BufferUpdate(change, low=-self.bound, high=self.bound),
            "mean_rate": BufferUpdate(y.mean(0), op="set"),
        }
        return TermOutput(output.values.new_zeros(()), updates)

    @torch.no_grad()
    def on_step(self, model: PlasticModel, batch: Batch, step: int) -> None:
        model.updates += 1
