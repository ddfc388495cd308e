"""Resample sequences to another number of steps, with their duration unchanged.

The centre of new step i of T' is at (i + 0.5) * T / T' old steps. Values are interpolated linearly
between the centres of old steps (beyond the first and last centre they are constant); symbols and
class labels are those of the old step that contains the centre. There is no low-pass filter:
oscillations faster than the new steps alias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from neuro.data import store
from neuro.data.made import Content, digest, made, write
from neuro.data.uses import target_of
from neuro.errors import DataError
from neuro.runtime.memory import check_memory

#: part of every digest; to be raised when equal settings give other values than before
RECIPE = 1
FOLDER = "resampled"


def linear(values: store.Array, steps: int) -> store.Array:
    """Interpolate values `[N, T, ...]` linearly to float32 `[N, T', ...]`."""
    old = values.shape[1]
    centres = np.clip((np.arange(steps) + 0.5) * old / steps - 0.5, 0, old - 1)
    before = np.floor(centres).astype(np.int64)
    fraction = (centres - before).astype(np.float32).reshape(-1, *[1] * (values.ndim - 2))
    after = np.minimum(before + 1, old - 1)
    resampled: store.Array = values[:, before] * (1 - fraction) + values[:, after] * fraction
    return resampled.astype(np.float32, copy=False)


def nearest(values: store.Array, steps: int) -> store.Array:
    """Integers `[N, T, ...]` to `[N, T', ...]`, each that of the old step at the new centre."""
    chosen = ((np.arange(steps) + 0.5) * values.shape[1] / steps).astype(np.int64)
    resampled: store.Array = values[:, chosen]
    return resampled


def resampled(
    split: store.Split, steps: int, *, symbols: bool, scale: float | None, root: Path
) -> store.Split:
    """The split resampled to `steps`, from a file that is made once; unchanged if it has them.

    - `symbols`: values are symbols, which are not interpolated
    - `scale`: factor of the file's values, instead of the one that the file names
    """
    if split.frames == steps:
        return split
    if target_of(split, symbols) in ("image", "class_map"):
        raise DataError(
            f"{split.where}: its labels are neither one per sample nor one per step, so they "
            "cannot be resampled. Set data.target_seq_len=null."
        )
    shaping = {
        "recipe": RECIPE,
        "source": split.fingerprint,
        "steps": steps,
        "symbols": symbols,
        "scale": scale,
    }
    name = f"{split.path.stem}-{split.name or 'all'}-{steps}-{digest(shaping)}.h5"
    path = root / FOLDER / name
    held = split.held_frames is not None

    _, _, *shape = split.shape
    check_memory(
        4 * min(split.block, split.shape[0]) * steps * prod(shape),
        f"data.target_seq_len: got {steps}; {min(split.block, split.shape[0])} sequences of it",
        "Choose a shorter length.",
    )

    def blocks() -> Iterator[store.Array]:
        with split.blocks() as reader:
            for number in range(-(-split.shape[0] // split.block)):
                block = reader.read(number)
                yield block if held else (nearest if symbols else linear)(block, steps)

    def make() -> None:
        content = Content(
            blocks(),
            _labels(split, steps),
            frames=steps if held else None,
            scale=1.0 if symbols else scale or split.factor,
            samples=split.shape[0],
        )
        write(
            path,
            {split.name: content},
            rate_hz=split.rate_hz and split.rate_hz * steps / split.frames,
            duration_ms=split.duration_ms,
            classes=split.classes or (),
            symbols=split.symbols,
            generator=f"{split.where}, resampled from {split.frames} to {steps} steps",
        )

    def expected(splits: Mapping[str, store.Split]) -> str:
        found = splits.get(split.name)
        if found is not None and (found.shape[0], found.frames) == (split.shape[0], steps):
            return ""
        return f"does not hold the {split.shape[0]} samples of {steps} steps of {split.where}."

    return made(path, make, expected)[split.name]


def _labels(split: store.Split, steps: int) -> store.Array | None:
    """Labels per step resampled; labels per sample are unchanged."""
    labels = split.labels
    if labels is None or labels.ndim == 1:
        return labels
    if labels.dtype.kind == "i":
        return nearest(labels, steps)
    return linear(labels, steps) if labels.ndim == 3 else labels
