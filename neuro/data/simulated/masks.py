"""Masks of one's own, in tiles, with the images that chosen optics make of them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt

from neuro.data import store
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.loading import InMemory
from neuro.data.made import Content, digest, made, write
from neuro.data.parts import Part, all_rows
from neuro.data.sequences.source import Count, Seed, SequenceSource
from neuro.data.simulated.mask_file import SUFFIXES, read_mask, tiles
from neuro.data.simulated.optics import Optics
from neuro.errors import DataError
from neuro.ops.optics import socs_image

RECIPE = 1  #: part of every digest; to be raised when equal settings give other images


class MaskFiles(SequenceSource):
    """The tiles of mask files, as task `all`; every split holds all of them.

    Keys are explained in `conf/data/litho_masks.yaml`.
    """

    def __init__(
        self,
        *,
        optics: Optics,
        path: str | None = None,
        size: Annotated[int, Ge(8)] = 64,
        pixel_nm: Annotated[float, Gt(0)] = 25.0,
        kernels: Count | None = 24,
        split_seed: Seed = 0,
        root: str | None = None,
        in_memory: InMemory = "auto",
        batch_size: Count = 16,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
        transforms: Transforms | None = None,
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
        if path is None:
            raise ValueError("path: got null; expected a mask file, or a folder of them")
        self.path = Path(path)
        self.size = size
        self.pixel_nm = pixel_nm
        self.kernels = kernels
        optics.check_pixel(pixel_nm, "data.pixel_nm")

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("all",)

    def _outputs(self) -> int:
        raise AssertionError("aerial images have no classes")

    def _check_transforms(self) -> None:
        super()._check_transforms()
        self.optics.check_transforms(self.augmentation.transforms)

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        masks = self._masks()
        settings = {
            "recipe": RECIPE,
            "masks": zlib.crc32(masks.tobytes()),
            "shape": masks.shape,
            "optics": self.optics.plain(),
            "pixel_nm": self.pixel_nm,
            "kernels": self.kernels,
        }
        path = self.root / f"lithography-masks-{digest(settings)}.h5"
        splits = made(path, lambda: self._make(path, masks))
        return {"all": {split: [all_rows(splits[split])] for split in SPLITS}}

    def _masks(self) -> store.Array:
        """The tiles `[N, size, size]` of all files, in the order of their names."""
        files = [self.path]
        if self.path.is_dir():
            files = sorted(path for path in self.path.iterdir() if path.suffix in SUFFIXES)
            if not files:
                raise DataError(f"{self.path}: the folder holds no {' or '.join(SUFFIXES)} files.")
        return np.concatenate([tiles(read_mask(file), self.size, file) for file in files])

    def _make(self, path: Path, masks: store.Array) -> None:
        extent = self.size * self.pixel_nm
        kernels = self.optics.kernels(extent, self.kernels).values.to(torch.complex64)
        images = socs_image(torch.from_numpy(masks), kernels, self.optics.dose).numpy()
        content = Content([masks[:, None, None]], images[:, None], scale=1.0)
        write(
            path, dict.fromkeys(map(str, SPLITS), content), generator=f"neuro masks of {self.path}"
        )
