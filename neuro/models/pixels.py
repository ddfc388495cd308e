"""Control without a network: a readout of the input frames."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from neuro.data.base import TaskSpec
from neuro.layers.readout import ReadoutKind, make_readout
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Plastic
from neuro.models.inputs import check_sequences


class Pixels(CoreModel, Plastic):
    """A linear readout of the input frames; records `features`, the mean frame `[B, F]`."""

    def __init__(self, spec: TaskSpec, readout: ReadoutKind = "discriminant"):
        super().__init__()
        check_sequences(spec, time_step=False)
        self.readout = make_readout(readout, prod(spec.inputs.shape), spec.outputs)

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    @property
    def plastic_buffers(self) -> dict[str, str]:
        return {f"readout.{name}": r for name, r in self.readout.plastic_buffers.items()}

    @property
    def recordable(self) -> tuple[str, ...]:
        return ("features",)

    def forward(
        self,
        inputs: Tensor,
        state: tuple[()] | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        frames = inputs.flatten(2)
        records = {"features": frames.mean(1)} if record else {}
        return ModelOutput(self.readout(frames), (), records)
