"""User components for `_target_`: valid and invalid ones."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuro.layers.lif import LIFLayer, LIFNeuron
from neuro.models.base import CoreModel
from neuro.models.spiking_cnn import SpikingCNN


class OwnModel(SpikingCNN):
    """A user's own model."""


@dataclass(frozen=True)
class UnequalThresholds(LIFNeuron):
    """A user's own neuron: LIF with a different threshold in each layer."""

    spread: float = 0.0

    def layer(self, synapse: Any, shape: tuple[int, ...], fixed_point: Any) -> LIFLayer:
        layer = super().layer(synapse, shape, fixed_point)
        layer.threshold += self.spread * torch.rand(())
        return layer


class OutOfMemory(SpikingCNN):
    """Run out of memory in training steps of more than four samples, from the third on."""

    steps = 0

    def forward(self, inputs: torch.Tensor, state: Any = None, **options: Any) -> Any:
        if self.training and "features" in options.get("record", ()) and len(inputs) > 4:
            self.steps += 1
            if self.steps == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(inputs, state, **options)


class Unfinished(CoreModel):
    """Lacks methods of the contract."""


class NotANumber(SpikingCNN):
    """Its training diverges from the start."""

    def forward(self, inputs: torch.Tensor, state: Any = None, **options: Any) -> Any:
        output = super().forward(inputs, state, **options)
        return output._replace(values=output.values * float("nan")) if self.training else output


class LostOnce(SpikingCNN):
    """Kill the process in the first training step unless the file MARKER exists."""

    def forward(self, inputs: torch.Tensor, state: Any = None, **options: Any) -> Any:
        marker = Path(os.environ["MARKER"])
        if self.training and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs, state, **options)
