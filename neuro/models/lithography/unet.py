"""A U-Net of full resolution: dilated convolutions in the place of downsampling.

Padding is circular and nothing is strided, so that a mask shifted by any number of pixels, around
the edges of its tile, has an image shifted by as many.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, MinLen
from torch import Tensor, cat, nn

from neuro.config.types import Count
from neuro.data.base import TaskSpec
from neuro.errors import ConfigError
from neuro.models.lithography.base import ImageModel


class UNet(ImageModel):
    """Encoder stages with twice the channels and another dilation each, and a mirrored decoder.

    `channels` of the first stage; `dilations` of each stage, the last being the bottleneck. With
    `large_kernel` k the bottleneck's second convolution is separable and k x k. Groups of GroupNorm
    have `group` channels.
    """

    def __init__(
        self,
        spec: TaskSpec,
        channels: Count = 8,
        dilations: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 4, 8),
        large_kernel: Annotated[int, Gt(1)] | None = None,
        group: Count = 4,
    ):
        super().__init__(spec)
        if channels % group:
            raise ConfigError(
                f"model.group: got {group}; expected a divisor of model.channels ({channels})."
            )
        side = min(spec.inputs.shape[1:])
        if max(*dilations, (large_kernel or 1) // 2) >= side:
            raise ConfigError(
                f"model: dilations and half of large_kernel must stay below the tile's {side} "
                "pixels, for circular padding."
            )
        if large_kernel is not None and large_kernel % 2 == 0:
            raise ConfigError(f"model.large_kernel: got {large_kernel}; expected an odd number.")
        widths = [channels * 2**i for i in range(len(dilations))]
        before = [self.channels, *widths]
        self.down = nn.ModuleList(
            _stage(a, b, dilation, group)
            for a, b, dilation in zip(before, widths, dilations, strict=False)
        )
        if large_kernel is not None:
            self.down[-1] = nn.Sequential(
                _convolution(before[-2], widths[-1], dilations[-1], group),
                _separable(widths[-1], large_kernel, group),
            )
        self.up = nn.ModuleList(
            _stage(3 * width, width, dilation, group)
            for width, dilation in reversed(list(zip(widths[:-1], dilations, strict=False)))
        )
        self.out = nn.Conv2d(channels, self.outputs, 1)

    def image(self, x: Tensor) -> Tensor:
        kept = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        for stage, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = stage(cat([x, skip], 1))
        image: Tensor = self.out(x)
        return image


def _stage(before: int, after: int, dilation: int, group: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(before, after, dilation, group), _convolution(after, after, dilation, group)
    )


def _convolution(before: int, after: int, dilation: int, group: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            before, after, 3, padding=dilation, dilation=dilation, padding_mode="circular",
            bias=False,
        ),
        nn.GroupNorm(after // group, after),
        nn.SiLU(),
    )  # fmt: skip


def _separable(channels: int, kernel: int, group: int) -> nn.Sequential:
    """A depthwise column, a depthwise row, and a 1 x 1 convolution."""
    half = kernel // 2
    return nn.Sequential(
        nn.Conv2d(
            channels, channels, (kernel, 1), padding=(half, 0), padding_mode="circular",
            groups=channels, bias=False,
        ),
        nn.Conv2d(
            channels, channels, (1, kernel), padding=(0, half), padding_mode="circular",
            groups=channels, bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.GroupNorm(channels // group, channels),
        nn.SiLU(),
    )  # fmt: skip
