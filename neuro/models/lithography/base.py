"""What models from a mask to its image have in common: one step, no state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuro.data.base import TaskSpec
from neuro.errors import ConfigError
from neuro.models.base import CoreModel, ModelOutput


class ImageModel(CoreModel):
    """A map from images `[B, channels, H, W]` to images; subclasses implement `image`."""

    def __init__(self, spec: TaskSpec):
        super().__init__()
        name = type(self).__name__
        if spec.targets.kind != "image" or len(spec.inputs.shape) != 3 or spec.frames != 1:
            raise ConfigError(
                f"model: {name} maps an image to an image; the data have inputs of shape "
                f"{list(spec.inputs.shape)} over {spec.described_timings}, and targets of the kind "
                f"{spec.targets.kind}. Use data=lithography, or another model."
            )
        self.channels = spec.inputs.shape[0]
        self.outputs = spec.targets.shape[0]

    @abstractmethod
    def image(self, x: Tensor) -> Tensor:
        """Images `[B, outputs, H, W]` of inputs `[B, channels, H, W]`."""

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(
        self,
        inputs: Tensor,
        state: Any = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        if record:
            raise ConfigError(f"{type(self).__name__} records nothing; got {', '.join(record)}.")
        return ModelOutput(self.image(inputs[:, 0]), (), {})
