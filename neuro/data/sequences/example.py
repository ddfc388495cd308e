"""Example of a user's data file: sequences of digits with a label per step.

scikit-learn's digits, 8 x 8 pixels, as `[N, T, 64]` values: a sequence shows `digits` of them, each
for `steps` frames, and its labels `[N, T]` are the digit shown. No image is in two splits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuro.data.base import SPLITS
from neuro.data.hdf5_file import opened, reading
from neuro.data.made import Content, write
from neuro.data.parts import stratified_order
from neuro.errors import DataError

RATE_HZ = 50.0
#: sequences of each split, and the share of the images that they are made of
SIZES = {"train": (1200, 0.7), "val": (300, 0.2), "test": (300, 0.1)}


def write_example(path: Path, *, digits: int = 2, steps: int = 10, seed: int = 0) -> None:
    """Write the file, with the splits train, val and test."""
    from sklearn.datasets import load_digits  # a second of import

    found = load_digits()
    rng = np.random.default_rng(seed)
    order = stratified_order(found.target, rng)
    contents: dict[str, Content] = {}
    start = 0
    for split in SPLITS:
        samples, share = SIZES[split]
        images = order[start : start + round(share * len(order))]
        start += len(images)
        chosen = rng.choice(images, (samples, digits))
        data = found.data[chosen].astype(np.uint8).repeat(steps, axis=1)
        labels = found.target[chosen].astype(np.int64).repeat(steps, axis=1)
        contents[split] = Content([data], labels, scale=1 / 16)
    write(
        path,
        contents,
        rate_hz=RATE_HZ,
        duration_ms=1000 * digits * steps / RATE_HZ,
        classes=range(10),
        generator=_generator(digits, steps, seed),
    )


def is_example(path: Path, *, digits: int, steps: int, seed: int) -> bool:
    """Whether a file is what `write_example` writes for these arguments."""
    try:
        with opened(path) as file, reading(f"{path}"):
            return bool(file.attrs.get("generator") == _generator(digits, steps, seed))
    except DataError:
        return False


def _generator(digits: int, steps: int, seed: int) -> str:
    return f"neuro data example: {digits} digits of {steps} steps, seed {seed}"
