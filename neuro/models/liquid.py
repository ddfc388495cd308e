"""Liquid networks alone, CfC or LTC, over sequences of vectors; see layers/liquid.py and ltc.py."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from neuro.data.base import TaskSpec
from neuro.layers.hybrid_block import Liquid
from neuro.layers.liquid import LiquidState
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.inputs import check_sequences, elapsed_times


class LiquidNetwork(CoreModel):
    """One liquid network, and a linear readout of its outputs at every step.

    Steps take the time that the data give for them (`InputSpec.elapsed`), else 1.
    """

    def __init__(self, spec: TaskSpec, liquid: Liquid):
        super().__init__()
        check_sequences(spec, time_step=False)
        self.inputs = spec.inputs
        self.liquid = liquid.make(prod(spec.inputs.shape))
        self.readout = nn.Linear(self.liquid.outputs, spec.outputs)

    def initial_state(self, batch_size: int) -> LiquidState:
        """States of the units, and of memory cells if there are any."""
        return self.liquid.initial_state(batch_size)

    def forward(
        self,
        inputs: Tensor,
        state: LiquidState | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        x_TBF = inputs.flatten(2).transpose(0, 1)
        outputs, after = self.liquid(x_TBF, state, elapsed_times(self.inputs, inputs))
        return ModelOutput(self.readout(outputs.transpose(0, 1)), after, {})
