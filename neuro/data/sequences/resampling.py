"""Sequences of another number of steps that last as long as before.

New step i of T' has its middle at (i + 0.5) * T / T' old steps. Values are interpolated linearly
between the middles of the old steps (the first and last are repeated beyond them); symbols and
class labels, between which there is nothing, are those of the step in which the middle lies.
A shorter sequence is not smoothed first: what oscillates faster than the new steps aliases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from neuro.data import store
from neuro.data.made import Content, digest, made, write
from neuro.data.uses import target_of
from neuro.errors import DataError

#: part of every digest; raise it when the same settings give other values than before
RECIPE = 1
FOLDER = "resampled"


def linear(values: store.Array, steps: int) -> store.Array:
    """Float32 values `[N, T', ...]` of values `[N, T, ...]`."""
    old = values.shape[1]
    middles = np.clip((np.arange(steps) + 0.5) * old / steps - 0.5, 0, old - 1)
    before = np.floor(middles).astype(np.int64)
    share = (middles - before).astype(np.float32).reshape(-1, *[1] * (values.ndim - 2))
    after = np.minimum(before + 1, old - 1)
    resampled: store.Array = values[:, before] * (1 - share) + values[:, after] * share
    return resampled.astype(np.float32, copy=False)


def nearest(values: store.Array, steps: int) -> store.Array:
    """Integers `[N, T', ...]` of integers `[N, T, ...]`."""
    chosen = ((np.arange(steps) + 0.5) * values.shape[1] / steps).astype(np.int64)
    resampled: store.Array = values[:, chosen]
    return resampled


def resampled(
    split: store.Split, steps: int, *, symbols: bool, scale: float | None, root: Path
) -> store.Split:
    """The split with `steps` steps, from a file that is made once; itself if it has them.

    `symbols` says that data are not to be interpolated, `scale` what the file's values are
    multiplied by if not what it says itself.
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
    """Labels of the new steps where each step has one, else as they are."""
    labels = split.labels
    if labels is None or labels.ndim == 1:
        return labels
    if labels.dtype.kind == "i":
        return nearest(labels, steps)
    return linear(labels, steps) if labels.ndim == 3 else labels
