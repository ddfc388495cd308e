"""Images as sequences of rows: a convolution, then each row of its maps as one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from neuro.config.types import STRICT
from neuro.data.base import TaskSpec

_PER_STEP = ("class_sequence", "value_sequence", "token")


@dataclass(frozen=True)
class ImageRows:
    """Settings: filters of `kernel` x `kernel` pixels, odd so that no row is lost or added."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    channels: Annotated[int, Ge(1)] = 16
    kernel: Annotated[int, Ge(1)] = 3

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: got {self.kernel}; expected an odd number of pixels")

    def make(self, spec: TaskSpec, dim: int) -> RowEmbedding:
        """Create the module. ValueError for inputs that are no images, and targets per step."""
        shape = spec.inputs.shape
        if len(shape) != 3:
            raise ValueError(
                f"image_rows: the data has inputs of shape {list(shape)} per step; expected images "
                "[channels, height, width]"
            )
        if spec.targets.kind in _PER_STEP:
            raise ValueError(
                f"image_rows: the data has targets of kind '{spec.targets.kind}', one per step; a "
                "step of the model is a row of an image"
            )
        return RowEmbedding(shape, self, dim)


class RowEmbedding(nn.Module):
    """Map images `[B, T, C, H, W]` to `[B, T * H, dim]`."""

    def __init__(self, shape: tuple[int, ...], settings: ImageRows, dim: int):
        super().__init__()
        self.convolution = nn.Conv2d(
            shape[0], settings.channels, settings.kernel, padding=settings.kernel // 2
        )
        self.projection = nn.Linear(settings.channels * shape[2], dim)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images.flatten(0, 1)).relu()  # [B T, C, H, W]
        rows = maps.transpose(1, 2).flatten(2)  # [B T, H, C W]
        embedded: Tensor = self.projection(rows)
        return embedded.view(len(images), -1, embedded.shape[-1])
