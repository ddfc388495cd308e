"""Small data files, and epochs as arrays."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import gdstk
import h5py
import numpy as np
import torch

from neuro.data.base import Loader


def write_hdf5(path: Path, splits: dict[str, dict[str, Any]], **attributes: Any) -> Path:
    """Write a file with `{split: {data, labels}}` ("" for the root), as other programs do."""
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, datasets in splits.items():
            group = file.require_group(name) if name else file
            for key, values in datasets.items():
                group[key] = values
    return path


def numbered(samples: int, frames: int = 3, classes: int = 4) -> dict[str, np.ndarray]:
    """Float data `[N, T, 2]` whose first value is the sample's number, with labels `[N]`."""
    data = np.random.default_rng(0).random((samples, frames, 2)).astype(np.float32)
    data[:, 0, 0] = np.arange(samples)
    return {"data": data, "labels": np.arange(samples) % classes}


def numbers(loader: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    """The sample numbers of each batch of `numbered` data."""
    return [batch.inputs[:, 0, 0].int().tolist() for batch in loader.batches(epoch, start)]


def flat(lists: Iterable[list[int]]) -> list[int]:
    """The concatenated lists."""
    return list(chain.from_iterable(lists))


def whole(loader: Loader, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """All sequences and targets of an epoch."""
    batches = list(loader.batches(epoch))
    return torch.cat([b.sequence() for b in batches]), torch.cat([b.targets for b in batches])


def write_gds(
    path: Path,
    cells: dict[str, list[tuple[float, float, float, float]]],
    layer: tuple[int, int] = (1, 0),
) -> Path:
    """Write a GDS or OASIS file: one cell per list of rectangles (x, y, width, height) in nm."""
    library = gdstk.Library(unit=1e-6, precision=1e-10)
    for name, boxes in cells.items():
        cell = library.new_cell(name)
        for x, y, width, height in boxes:
            ends = (x / 1000, y / 1000), ((x + width) / 1000, (y + height) / 1000)
            cell.add(gdstk.rectangle(*ends, layer=layer[0], datatype=layer[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    (library.write_oas if path.suffix == ".oas" else library.write_gds)(path)
    return path


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file of uint8, gzipped if its name ends in .gz."""
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, *, dot: str = "-", suffix: str = "", train: int = 60) -> Path:
    """Write the four files of a small set of ten classes, 6 x 6 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for part, count in (("train", train), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 6, 6))
        write_idx(folder / f"{part}-images{dot}idx3-ubyte{suffix}", pixels)
        write_idx(folder / f"{part}-labels{dot}idx1-ubyte{suffix}", np.arange(count) % 10)
    return folder


TS_HEADER = "@problemName x\n@timeStamps false\n@classLabel true a b\n@data\n"


def write_ts(path: Path, rows: Sequence[str], header: str = TS_HEADER) -> Path:
    """Write a file of time series; a row is `1,2:3,4:a` for two channels of two frames."""
    path.write_text("# comment\n" + header + "\n".join(rows) + "\n")
    return path


def write_events(
    path: Path,
    times: Sequence[Sequence[float]],
    units: Sequence[Sequence[int]],
    labels: Sequence[int],
) -> Path:
    """Write a file of events in the layout of SHD: times in seconds and units of each sample."""
    with h5py.File(path, "w") as file:
        group = file.create_group("spikes")
        for name, rows, kind in (("times", times, "f4"), ("units", units, "u2")):
            data = group.create_dataset(name, len(rows), h5py.vlen_dtype(np.dtype(kind)))
            for i, row in enumerate(rows):
                data[i] = np.asarray(row, kind)
        file["labels"] = np.asarray(labels)
    return path
