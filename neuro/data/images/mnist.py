"""MNIST, or any set of ten classes in the same four IDX files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuro.data.images import idx
from neuro.data.images.sets import Images, ImageSet
from neuro.errors import DataError


class IdxImages(ImageSet):
    """The images of the IDX files in the folder `path`, gzipped or not; they have a test part."""

    name = "temporal-mnist"

    def __init__(self, path: str):
        self.path = Path(path)

    def fingerprint(self) -> Mapping[str, Any]:
        return {name: zlib.crc32(path.read_bytes()) for name, path in self._files().items()}

    def load(self, rng: np.random.Generator) -> tuple[Images, Images]:
        files = self._files()
        train = self._read(files["train-images"], files["train-labels"])
        test = self._read(files["t10k-images"], files["t10k-labels"])
        if train.pixels.shape[1:] != test.pixels.shape[1:]:
            raise DataError(
                f"{files['t10k-images']}: images of {test.pixels.shape[1:]}; expected "
                f"{train.pixels.shape[1:]} as in {files['train-images'].name}."
            )
        return train, test

    def _files(self) -> dict[str, Path]:
        """The four files, keyed by stem."""
        return {
            f"{part}-{kind}": idx.find(self.path, f"{part}-{kind}", rank)
            for part in ("train", "t10k")
            for kind, rank in (("images", 3), ("labels", 1))
        }

    def _read(self, images: Path, labels: Path) -> Images:
        pixels = idx.read(images, rank=3)
        targets = idx.read(labels, rank=1).astype(np.int64)
        if len(pixels) != len(targets):
            raise DataError(
                f"{images}: {len(pixels)} images, but {len(targets)} labels in {labels.name}; "
                "expected as many."
            )
        if targets.max() not in self.classes:
            raise DataError(
                f"{labels}: label {targets.max()} in sample {targets.argmax()}; expected "
                f"{self.classes[0]} to {self.classes[-1]}."
            )
        return Images(pixels, targets, 255)
