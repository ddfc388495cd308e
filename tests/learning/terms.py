"""Shared by tests of terms: a term on given outputs, and a small recurrent network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Connection


def loss_on(term, values, targets, model=None, steps=None, teacher=None):
    """The term's loss on pooled outputs, and on those of every step."""
    batch = Batch(torch.zeros(len(values), 1, 1), targets, 1.0, teacher=teacher)
    return term(model, batch, ModelOutput(values, (), {"values": steps})).loss


class RingsState(NamedTuple):
    ring: Tensor


class Rings(CoreModel):
    """s1_t = a s1_{t-1} + tanh(J01 x_t + J11 s1_{t-1}), s2_t = J12 s1_t, in double precision."""

    INPUTS, RING, OUTPUTS = 3, 4, 2

    def __init__(self, leak: float = 0.0, seed: int = 0):
        super().__init__()
        self.leak = leak
        generator = torch.Generator().manual_seed(seed)

        def matrix(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, dtype=torch.double, generator=generator))

        self.weight_in = matrix(self.RING, self.INPUTS)
        self.weight_ring = matrix(self.RING, self.RING)
        self.weight_out = matrix(self.OUTPUTS, self.RING)

    def initial_state(self, batch_size):
        return RingsState(torch.zeros(batch_size, self.RING, dtype=torch.double))

    @property
    def recordable(self):
        return ("layer0/s", "layer1/s", "layer1/g", "layer2/s")

    def activity_records(self):
        return {"layer1": "layer1/s", "layer2": "layer2/s"}

    def activity_limits(self):
        return {}

    def connection_weights(self):
        return dict(self.named_parameters())

    def connections(self):
        return (
            Connection("layer0", "layer1", self.weight_in),
            Connection("layer1", "layer1", self.weight_ring),
            Connection("layer1", "layer2", self.weight_out),
        )

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        s = (state or self.initial_state(len(inputs))).ring
        ring, drive = [], []
        for x in inputs.double().flatten(2).unbind(1):
            g = torch.tanh(x @ self.weight_in.T + s @ self.weight_ring.T)
            s = self.leak * s + g
            ring.append(s)
            drive.append(g)
        layer1 = torch.stack(ring)
        layer2 = layer1 @ self.weight_out.T
        traces = {
            "layer0/s": inputs.double().flatten(2).transpose(0, 1),
            "layer1/s": layer1,
            "layer1/g": torch.stack(drive),
            "layer2/s": layer2,
        }
        records = {name: traces[name] for name in record}
        return ModelOutput(layer2.transpose(0, 1), RingsState(s), records)


def rings_batch(samples: int = 2, steps: int = 5, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, steps, Rings.INPUTS, dtype=torch.double, generator=generator)
    return Batch(inputs, torch.zeros(samples, dtype=torch.long), 1.0)


def run_term(term, model, batch):
    """The loss as an objective computes it: records, values of every step, mean over time."""
    output = model(batch.sequence(), dt_ms=batch.dt_ms, record=term.records(model))
    records = {**output.records, "values": output.values}
    return term(model, batch, output._replace(values=output.values.mean(1), records=records)).loss
