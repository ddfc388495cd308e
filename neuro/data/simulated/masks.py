"""Masks of one's own, in tiles, with the images that chosen optics make of them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from neuro.config.types import Count, Seed
from neuro.data import store
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.loading import InMemory
from neuro.data.made import digest, made, write
from neuro.data.parts import Part, all_rows
from neuro.data.simulated.imaging import ImagedMasks
from neuro.data.simulated.layout_file import SUFFIXES as LAYOUTS
from neuro.data.simulated.layout_file import Layer, check_layer, is_layout, read_layer
from neuro.data.simulated.mask_file import SUFFIXES, read_mask, tiles
from neuro.data.simulated.optics import Optics
from neuro.data.simulated.raster import bands
from neuro.errors import DataError

RECIPE = 1  #: part of every digest; to be raised when equal settings give other images


class MaskFiles(ImagedMasks):
    """The tiles of mask files, as task `all`; every split holds all of them.

    Keys are explained in `conf/data/litho_masks.yaml`.
    """

    def __init__(
        self,
        *,
        optics: Optics,
        path: str | None = None,
        layer: Layer | None = None,
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
            optics=optics,
            size=size,
            pixel_nm=pixel_nm,
            kernels=kernels,
            split_seed=split_seed,
            root=root,
            in_memory=in_memory,
            batch_size=batch_size,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            transforms=transforms,
        )
        if path is None:
            raise ValueError("path: got null; expected a mask file, or a folder of them")
        self.path = Path(path)
        check_layer(layer)
        self.layer = layer

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("all",)

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
            suffixes = (*SUFFIXES, *LAYOUTS)
            files = sorted(p for p in self.path.iterdir() if p.suffix.lower() in suffixes)
            if not files:
                raise DataError(f"{self.path}: the folder holds no {' or '.join(suffixes)} files.")
        return np.concatenate([self._tiles(file) for file in files])

    def _tiles(self, file: Path) -> store.Array:
        """The tiles of a mask, or of the cells of a layout, as float32."""
        if not is_layout(file):
            return tiles(read_mask(file), self.size, file)
        return np.concatenate(
            [
                tiles(band.astype(np.float32), self.size, file)
                for polygons in read_layer(file, self.layer, "data.layer").values()
                for band in bands(polygons, self.pixel_nm, self.size)
            ]
        )

    def _make(self, path: Path, masks: store.Array) -> None:
        content = self._imaged(masks)
        write(
            path, dict.fromkeys(map(str, SPLITS), content), generator=f"neuro masks of {self.path}"
        )
