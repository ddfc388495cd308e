"""Base of sources of masks and the aerial images that chosen optics make of them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from neuro.data import store
from neuro.data.augmentation import Transforms
from neuro.data.loading import InMemory
from neuro.data.made import Content
from neuro.data.sequences.source import SequenceSource
from neuro.data.simulated.optics import Optics
from neuro.ops.optics import paired_kernels, socs_image

#: masks that are imaged together, which limits memory
_AT_ONCE = 64


class ImagedMasks(SequenceSource):
    """Masks `[1, 1, size, size]` of 0 (dark) to 1 (one step), and images `[1, size, size]`.

    ConfigError for pixels that are too coarse for the optics.
    """

    def __init__(
        self,
        *,
        optics: Optics,
        size: int,
        pixel_nm: float,
        kernels: int | None,
        split_seed: int,
        root: str | None,
        in_memory: InMemory,
        batch_size: int,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        transforms: Transforms | None,
    ):
        super().__init__(
            batch_size=batch_size,
            in_memory=in_memory,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
            root=root,
            transforms=transforms,
        )
        self.optics = optics
        self.size = size
        self.pixel_nm = pixel_nm
        self.kernels = kernels
        optics.check_pixel(pixel_nm, "data.pixel_nm")
        if optics.frequencies(self.extent_nm) > size:
            raise ValueError(
                f"size: {size} pixels have fewer frequencies than the optics pass, "
                f"{optics.frequencies(self.extent_nm)} per axis; use finer pixels"
            )

    @property
    def extent_nm(self) -> float:
        """Side of a tile."""
        return self.size * self.pixel_nm

    def _outputs(self) -> int:
        raise AssertionError("aerial images have no classes")

    def _check_transforms(self) -> None:
        super()._check_transforms()
        self.optics.check_transforms(self.augmentation.transforms)

    @cached_property
    def _kernel_values(self) -> torch.Tensor:
        """Kernels of the simulation, complex64 `[K, n, n]`."""
        kernels = self.optics.kernels(self.extent_nm, self.kernels).values
        return paired_kernels(kernels).to(torch.complex64)

    def _imaged(self, masks: store.Array) -> Content:
        """The content of a split: masks `[N, size, size]` and their images."""
        images = [
            socs_image(
                torch.from_numpy(part).float(), self._kernel_values, self.optics.dose
            ).numpy()
            for part in np.array_split(masks, -(-len(masks) // _AT_ONCE))
        ]
        return Content([masks[:, None, None]], np.concatenate(images)[:, None], scale=1.0)
