"""The digits that come with scikit-learn: 1797 images of 8 x 8 pixels, without a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuro.config.types import Fraction
from neuro.data.images.sets import Images, ImageSet, held_out


class DigitImages(ImageSet):
    """scikit-learn's digits, of which `test_fraction`, stratified, is for testing."""

    name = "temporal-digits"

    def __init__(self, test_fraction: Fraction = 0.2):
        self.test_fraction = test_fraction

    def fingerprint(self) -> Mapping[str, Any]:
        return {"set": "sklearn digits", "test_fraction": self.test_fraction}

    def load(self, rng: np.random.Generator) -> tuple[Images, Images]:
        from sklearn.datasets import load_digits  # a second of import, needed once per cache

        digits = load_digits()
        images = Images(digits.images.astype(np.uint8), digits.target.astype(np.int64), 16)
        test = held_out(images.labels, self.test_fraction, rng)
        return images.take(~test), images.take(test)
