"""Masks of one's own: NumPy arrays and PNG pictures. Layouts are read by `layout_file`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuro.data import store
from neuro.data.simulated.kernel_file import read_array
from neuro.errors import DataError

SUFFIXES = (".npy", ".png")


def read_mask(path: Path) -> store.Array:
    """A mask float32 `[H, W]`, 0 to 1: the light that each pixel passes.

    Pictures are read as grey levels, 255 as 1. DataError for what is no mask, or passes no light.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: masks are read from {' and '.join(SUFFIXES)} files.")
    values = read_array(path) if path.suffix == ".npy" else _picture(path)
    if values.ndim != 2 or values.dtype.kind not in "buif" or 0 in values.shape:
        raise DataError(
            f"{path}: holds {values.dtype} {list(values.shape)}; expected numbers [height, width]."
        )
    mask: store.Array = values.astype(np.float32)
    if not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise DataError(
            f"{path}: holds values from {mask.min():g} to {mask.max():g}; expected 0 (dark) to 1 "
            "(light passes)."
        )
    if not mask.any():
        raise DataError(f"{path}: the mask is empty: no pixel passes light.")
    return mask


def tiles(mask: store.Array, size: int, path: Path) -> store.Array:
    """The tiles `[N, size, size]` of a mask, row by row. DataError unless they fill it."""
    height, width = mask.shape
    if height % size or width % size:
        raise DataError(
            f"{path}: {height} x {width} pixels are no multiple of tiles of {size} x {size}; crop "
            "the mask, or pad it with 0."
        )
    rows = mask.reshape(height // size, size, width // size, size)
    return rows.swapaxes(1, 2).reshape(-1, size, size)


def _picture(path: Path) -> store.Array:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            grey: store.Array = np.asarray(picture.convert("L"), np.float32) / np.float32(255)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: no picture can be read from it ({error}).") from error
    return grey
