"""Temporal tasks from the digits that come with scikit-learn: 1797 images of 8 x 8 pixels.

Needs no download. The set has no test part of its own, so one is split off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from neuro.data.base import Split
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


class TemporalDigits(TemporalImages):
    """scikit-learn's digits as sequences `[T, 1, H, W]` of values in [0, 1].

    `test_fraction` of all images, stratified, is for testing, then `val_fraction` of the rest for
    validation. The other keys are explained in `conf/data/temporal_digits.yaml`.
    """

    name = "temporal-digits"

    def __init__(
        self,
        *,
        timings: dict[str, Timing] = TIMINGS,
        tasks: dict[str, TaskDefinition | None] = TASKS,
        coding: Coding = "analog",
        max_rate_hz: Annotated[float, Gt(0)] = 50.0,
        jitter_px: Annotated[int, Ge(0)] = 0,
        motion_px_per_s: Annotated[float, Ge(0)] = 0.0,
        image_size: Count | None = None,
        test_fraction: Fraction = 0.2,
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
        self.test_fraction = test_fraction

    def _fingerprint(self) -> Mapping[str, Any]:
        return {"set": "sklearn digits", "test_fraction": self.test_fraction}

    def _images(self) -> dict[Split, Images]:
        from sklearn.datasets import load_digits  # a second of import, needed once per cache

        digits = load_digits()
        images = Images(digits.images.astype(np.uint8), digits.target.astype(np.int64), 16)
        rng = np.random.default_rng([self.split_seed, 0])
        test = held_out(images.labels, self.test_fraction, rng)
        rest = images.take(~test)
        val = held_out(rest.labels, self.val_fraction, rng)
        return {"train": rest.take(~val), "val": rest.take(val), "test": images.take(test)}
