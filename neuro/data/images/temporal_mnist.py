"""Temporal tasks from MNIST, or any set of ten classes in the same IDX files, found at `path`.

The original test part is for testing; a fraction of the training part is for validation.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from neuro.data.base import Split
from neuro.data.images import idx
from neuro.data.images.temporal import (
    TASKS,
    TIMINGS,
    Coding,
    Images,
    TaskDefinition,
    TemporalImages,
    Timing,
    held_out,
)
from neuro.data.loading import InMemory
from neuro.data.sequences.source import Count, Fraction, Seed
from neuro.data.transforms import Transforms
from neuro.errors import DataError


class TemporalMnist(TemporalImages):
    """MNIST's digits as sequences `[T, 1, H, W]` of values in [0, 1].

    `path` is the folder of the four IDX files, gzipped or not. The other keys are explained in
    `conf/data/temporal_mnist.yaml`.
    """

    name = "temporal-mnist"

    def __init__(
        self,
        *,
        path: str,
        timings: dict[str, Timing] = TIMINGS,
        tasks: dict[str, TaskDefinition | None] = TASKS,
        coding: Coding = "analog",
        max_rate_hz: Annotated[float, Gt(0)] = 50.0,
        jitter_px: Annotated[int, Ge(0)] = 0,
        motion_px_per_s: Annotated[float, Ge(0)] = 0.0,
        image_size: Count | None = None,
        val_fraction: Fraction = 0.2,
        split_seed: Seed = 0,
        root: str | None = None,
        in_memory: InMemory = "auto",
        batch_size: Count = 64,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
        transforms: Transforms | None = None,
    ):
        super().__init__(
            timings=timings,
            tasks=tasks,
            coding=coding,
            max_rate_hz=max_rate_hz,
            jitter_px=jitter_px,
            motion_px_per_s=motion_px_per_s,
            image_size=image_size,
            val_fraction=val_fraction,
            split_seed=split_seed,
            root=root,
            in_memory=in_memory,
            batch_size=batch_size,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            transforms=transforms,
        )
        self.path = Path(path)

    def _files(self) -> dict[str, Path]:
        """The four files, keyed by stem."""
        return {
            f"{part}-{kind}": idx.find(self.path, f"{part}-{kind}", rank)
            for part in ("train", "t10k")
            for kind, rank in (("images", 3), ("labels", 1))
        }

    def _fingerprint(self) -> Mapping[str, Any]:
        return {name: zlib.crc32(path.read_bytes()) for name, path in self._files().items()}

    def _images(self) -> dict[Split, Images]:
        files = self._files()
        train = self._read(files["train-images"], files["train-labels"])
        test = self._read(files["t10k-images"], files["t10k-labels"])
        if train.pixels.shape[1:] != test.pixels.shape[1:]:
            raise DataError(
                f"{files['t10k-images']}: images of {test.pixels.shape[1:]}; expected "
                f"{train.pixels.shape[1:]} as in {files['train-images'].name}."
            )
        rng = np.random.default_rng([self.split_seed, 0])
        val = held_out(train.labels, self.val_fraction, rng)
        return {"train": train.take(~val), "val": train.take(val), "test": test}

    def _read(self, images: Path, labels: Path) -> Images:
        pixels = idx.read(images, rank=3)
        targets = idx.read(labels, rank=1).astype(np.int64)
        if len(pixels) != len(targets):
            raise DataError(
                f"{images}: {len(pixels)} images, but {len(targets)} labels in {labels.name}; "
                "expected as many."
            )
        if not len(pixels):
            raise DataError(f"{images}: holds no images.")
        if targets.max() not in self.classes:
            raise DataError(
                f"{labels}: label {targets.max()} in sample {targets.argmax()}; expected "
                f"{self.classes[0]} to {self.classes[-1]}."
            )
        return Images(pixels, targets, 255)
