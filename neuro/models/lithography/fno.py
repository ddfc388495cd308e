"""Fourier neural operator (Li et al., ICLR 2021), the baseline of learned lithography simulators.

DOINN (Yang et al., DAC 2022) and CFNO (Yang and Ren, ISPD 2023) are of this kind. Without
coordinates among its inputs it commutes with circular shifts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.config.types import Count, Depth
from neuro.data.base import TaskSpec
from neuro.errors import ConfigError
from neuro.models.lithography.base import ImageModel


class SpectralConv(nn.Module):
    """A linear map of channels for each of the `modes` lowest frequencies of both axes."""

    def __init__(self, channels: int, modes: int):
        super().__init__()
        self.modes = modes
        # frequencies -modes + 1 to modes - 1 of the rows, 0 to modes - 1 of the columns
        weight = torch.randn(channels, channels, 2 * modes - 1, modes, 2) / channels
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Of `[B, channels, H, W]`, the same shape."""
        m, (height, width) = self.modes, x.shape[-2:]
        rows = torch.arange(1 - m, m, device=x.device) % height
        spectrum = torch.fft.rfft2(x.float())
        mixed = torch.einsum(
            "bihw,iohw->bohw", spectrum[:, :, rows, :m], torch.view_as_complex(self.weight)
        )
        out = torch.zeros_like(spectrum).index_copy(
            2, rows, F.pad(mixed, (0, spectrum.shape[-1] - m))
        )
        return torch.fft.irfft2(out, s=(height, width))


class FNO(ImageModel):
    """Lifting, `depth` Fourier layers with a skip of 1 x 1 convolutions each, and a projection.

    `width` channels; `modes` frequencies of each axis.
    """

    def __init__(
        self,
        spec: TaskSpec,
        width: Count = 16,
        modes: Count = 12,
        depth: Depth = 4,
    ):
        super().__init__(spec)
        side = min(spec.inputs.shape[1:])
        if 2 * modes > side:
            raise ConfigError(
                f"model.modes: got {modes}; a side of {side} pixels has {side // 2} frequencies."
            )
        self.lift = nn.Conv2d(self.channels, width, 1)
        self.spectral = nn.ModuleList(SpectralConv(width, modes) for _ in range(depth))
        self.skip = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.project = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, self.outputs, 1)
        )

    def image(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for spectral, skip in zip(self.spectral, self.skip, strict=True):
            x = F.gelu(spectral(x) + skip(x))
        image: Tensor = self.project(x)
        return image
