"""Learned optical kernels: the physics of partially coherent imaging as an architecture.

The image of a mask with spectrum M is sum_k |IFFT(M phi_k)|^2, with complex kernels phi_k over the
low frequencies as parameters (Nitho: Chen et al., DAC 2023, which has a network produce them).
Whatever the kernels are, a shifted mask has a shifted image.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from neuro.data.base import TaskSpec
from neuro.errors import ConfigError
from neuro.models.lithography.base import ImageModel
from neuro.ops.optics import socs_image


class OpticalKernels(ImageModel):
    """`kernels` complex kernels over the `frequencies` lowest frequencies of each axis.

    Those that the optics pass are (1 + sigma) NA / wavelength times the side of the tile, on both
    sides of zero; more cost time and have nothing to learn.
    """

    def __init__(
        self,
        spec: TaskSpec,
        kernels: Annotated[int, Ge(1)] = 24,
        frequencies: Annotated[int, Ge(1)] = 21,
    ):
        super().__init__(spec)
        height, width = spec.inputs.shape[1:]
        if self.channels != 1 or self.outputs != 1:
            raise ConfigError(
                f"model: OpticalKernels has one mask and one image; the data have {self.channels} "
                f"and {self.outputs} channels."
            )
        if frequencies % 2 == 0 or frequencies > min(height, width):
            raise ConfigError(
                f"model.frequencies: got {frequencies}; expected an odd number of at most "
                f"{min(height, width)}, the pixels of a side."
            )
        axis = torch.arange(frequencies) - frequencies // 2
        window = torch.exp(-(axis / (frequencies / 4)).square())
        weight = torch.randn(kernels, frequencies, frequencies, 2)
        weight *= (window[:, None] * window)[:, :, None]
        middle = weight[:, frequencies // 2, frequencies // 2]
        self.weight = nn.Parameter(weight / middle.square().sum().sqrt())  # a clear field of 1

    @property
    def kernels(self) -> Tensor:
        """The kernels, complex `[K, n, n]`, zero frequency in the middle."""
        return torch.view_as_complex(self.weight.float())

    def image(self, x: Tensor) -> Tensor:
        return socs_image(x.float(), self.kernels)
