"""Tiles of real layouts and the images that chosen optics make of them, divided by cell.

What lies in one subfolder stays in one split, as do all tiles of a cell: variants of a standard
cell, which sky130 keeps in a folder each, would otherwise be seen in training and tested. A tile
that occurs twice is kept once, for the same reason.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Interval, Lt

from neuro.config.types import Count, Fraction, Seed
from neuro.data import store
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.loading import InMemory
from neuro.data.made import Content, digest, made, write
from neuro.data.parts import Part, all_rows
from neuro.data.simulated.imaging import ImagedMasks
from neuro.data.simulated.layout_file import (
    CELLS_LAYER,
    SUFFIXES,
    Layer,
    check_layer,
    chosen_layer,
    installed_cells,
    is_layout,
    read_layout,
)
from neuro.data.simulated.mask_file import tiles
from neuro.data.simulated.optics import Optics
from neuro.data.simulated.raster import bands
from neuro.errors import DataError

#: what a data set may have, 20 GB of masks of 64 x 64 and images: more is a mistake in a length
MOST_TILES = 1_000_000

RECIPE = 1  #: part of every digest; to be raised when equal settings give other masks or images


class Layouts(ImagedMasks):
    """Tiles of the cells of layouts, as task `all`.

    Keys are explained in `conf/data/litho_layout.yaml`.
    """

    def __init__(
        self,
        *,
        optics: Optics,
        path: str | None = None,
        layer: Layer | None = None,
        scale: Annotated[float, Interval(gt=0, le=1e6)] = 1.0,
        size: Annotated[int, Interval(ge=8, le=100_000)] = 64,
        pixel_nm: Annotated[float, Gt(0)] = 25.0,
        min_fill: Annotated[float, Ge(0), Lt(1)] = 0.01,
        kernels: Count | None = 24,
        val_fraction: Fraction = 0.1,
        test_fraction: Fraction = 0.2,
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
        check_layer(layer)
        self.path = None if path is None else Path(path)
        self.layer = CELLS_LAYER if path is None and layer is None else layer
        self.scale = scale
        self.min_fill = min_fill
        self.fractions: dict[Split, float] = {"test": test_fraction, "val": val_fraction}
        if test_fraction + val_fraction >= 1:
            raise ValueError(
                f"test_fraction, val_fraction: got {test_fraction:g} and {val_fraction:g}, which "
                "leave nothing to train on; give less than 1 together"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("all",)

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        folder = installed_cells() if self.path is None else self.path
        files = layout_files(folder)
        settings = {
            "recipe": RECIPE,
            "optics": self.optics.plain(),
            "layer": self.layer,
            "scale": self.scale,
            "size": self.size,
            "pixel_nm": self.pixel_nm,
            "min_fill": self.min_fill,
            "kernels": self.kernels,
            "fractions": self.fractions,
            "split_seed": self.split_seed,
        }
        try:
            content = [(str(f.relative_to(folder)), zlib.crc32(f.read_bytes())) for f in files]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror}).") from error
        path = self.root / f"lithography-layout-{digest({**settings, 'files': content})}.h5"
        splits = made(path, lambda: self._make(path, folder, files, settings))
        return {"all": {split: [all_rows(splits[split])] for split in SPLITS}}

    def _make(
        self, path: Path, folder: Path, files: Sequence[Path], settings: dict[str, Any]
    ) -> None:
        masks = self._divided(self._groups(folder, files), folder)
        contents: dict[str, Content] = {split: self._imaged(masks[split]) for split in SPLITS}
        text = json.dumps({**settings, "files": str(folder)}, sort_keys=True)
        write(path, contents, generator=f"neuro layout {text}")

    def _groups(self, folder: Path, files: Sequence[Path]) -> list[store.Array]:
        """The tiles `[N, size, size]` of each cell, or of all cells in a subfolder."""
        layouts = [read_layout(file) for file in files]
        layer = chosen_layer(layouts, self.layer, folder, "data.layer")
        groups: dict[tuple[str, ...], list[store.Array]] = {}
        found: set[bytes] = set()
        most = MOST_TILES
        for layout in layouts:
            for cell, polygons in layout.merged(layer).items():
                extents = self.scale * np.ptp(np.concatenate(polygons), axis=0)
                most -= int(np.ceil(extents / self.extent_nm).prod())
                if most < 0:
                    raise DataError(
                        f"{folder}: has more than {MOST_TILES} tiles of {self.extent_nm:g} nm "
                        "(data.size x data.pixel_nm). Use larger tiles, or a part of the layout."
                    )
                parents = layout.path.relative_to(folder).parent.parts
                group = groups.setdefault(parents or (layout.path.name, cell), [])
                for tile in self._tiles(polygons, layout.path):
                    content = np.packbits(tile).tobytes()
                    if tile.mean() >= self.min_fill and tile.any() and content not in found:
                        found.add(content)
                        group.append(tile)
        return [np.stack(group) for group in groups.values() if group]

    def _tiles(self, polygons: Sequence[store.Array], path: Path) -> Iterator[store.Array]:
        for band in bands([self.scale * points for points in polygons], self.pixel_nm, self.size):
            yield from tiles(band, self.size, path)

    def _divided(self, groups: Sequence[store.Array], folder: Path) -> dict[Split, store.Array]:
        """The tiles of each split. DataError if there are too few groups for three splits."""
        order = np.random.default_rng([self.split_seed, 0]).permutation(len(groups)).tolist()
        chosen: dict[Split, list[int]] = {}
        for split, fraction in self.fractions.items():
            count = max(1, round(fraction * len(groups)))
            chosen[split], order = order[:count], order[count:]
        if not order:
            raise DataError(
                f"{folder}: {len(groups)} cells or subfolders have distinct tiles of at least "
                f"{self.min_fill:g} light (data.min_fill), too few to divide into train, val and "
                "test. Give more of them, or test a finished run on them with data=litho_masks."
            )
        chosen["train"] = order
        return {split: np.concatenate([groups[i] for i in chosen[split]]) for split in SPLITS}


def layout_files(path: Path) -> list[Path]:
    """A layout file, or those of a folder and its subfolders. DataError if there is none."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if is_layout(file) and file.is_file())
    if not files:
        raise DataError(f"{path}: the folder holds no {', '.join(SUFFIXES)} files.")
    return files
