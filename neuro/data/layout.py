"""The splits of an HDF5 file, checked against the layout that `store` describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuro.data import store
from neuro.data.hdf5_file import Item, check_stored, child, opened, reading
from neuro.data.store import ROOT, SPLIT_NAMES, Array, Split, check_values
from neuro.errors import DataError

#: names of groups by which other programs mean these
_SYNONYMS = {
    "training": "train",
    "trn": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
}


def open_splits(path: Path, scale: float | None = None) -> dict[str, Split]:
    """The splits of a file, with their values checked unless they are very large."""
    splits = read(path)
    for split in splits.values():
        if split.nbytes <= store.VERIFIED_BYTES:
            split.verify(scale)
    return splits


def read(path: Path) -> dict[str, Split]:
    """The splits of a file, checked except for the values of `data`; {ROOT: ...} without groups."""
    with opened(path) as file:
        with reading(f"{path}"):
            names = list(file)
        if "data" in names and isinstance(child(file, "data", f"{path}: "), h5py.Dataset):
            return {ROOT: _read_split(path, file, ROOT)}
        groups = {
            name: item
            for name in SPLIT_NAMES
            if isinstance(item := child(file, name, f"{path}: "), h5py.Group)
        }
        for name in names:
            meant = _SYNONYMS.get(name.lower(), name.lower())
            if meant in SPLIT_NAMES and meant not in groups:
                raise DataError(
                    f"{path}: holds a group {name!r}, which is not read; expected the name "
                    f'{meant!r}. Rename it: `python -c "import h5py; '
                    f"h5py.File('{path}', 'a').move('{name}', '{meant}')\"`."
                )
        if not groups:
            raise DataError(
                f"{path}: holds {_holdings(file)}; expected groups train, val, test with `data` "
                "and `labels`, or `data` and `labels` at the root."
            )
        return {name: _read_split(path, group, name) for name, group in groups.items()}


def unread(path: Path) -> list[str]:
    """Names of items in a file that are not read."""
    known = {"data", "labels"}
    with opened(path) as file, reading(f"{path}"):
        if "data" in file:
            return [name for name in file if name not in known]
        groups = [name for name in SPLIT_NAMES if name in file]
        inside = [f"{group}/{name}" for group in groups for name in file[group]]
        others = [name for name in file if name not in groups]
        return [*others, *(name for name in inside if name.rpartition("/")[2] not in known)]


def listing(path: Path, most: int = 20) -> list[str]:
    """The first groups and datasets of a file, with types and shapes; none if it is damaged."""
    found: list[str] = []
    try:
        with opened(path) as file, reading(f"{path}"):
            file.visititems(lambda name, item: found.append(described(name, item)))
    except DataError:
        pass
    return found[:most]


def _read_split(path: Path, group: h5py.Group, name: str) -> Split:
    where = f"{path}: {name + '/' if name else ''}"
    data = _dataset(group, "data", where)
    if data is None:
        raise DataError(f"{where}data is missing; {name or 'the file'} holds {_holdings(group)}.")
    integers = data.dtype.kind in "iu"
    if data.dtype != np.bool_ and data.dtype.kind not in "fiu":
        raise DataError(
            f"{where}data has dtype {data.dtype}; expected uint8 (images), bool (spikes), float or "
            "integers (symbols)."
        )
    if data.ndim < (2 if integers else 3) or 0 in data.shape:
        raise DataError(
            f"{where}data has shape {data.shape}; expected [samples, time, features, ...], "
            "or [samples, time] for integers that are symbols; none of them 0."
        )
    if integers and data.dtype != np.uint8 and math.prod(data.shape[2:]) > 1:
        raise DataError(
            f"{where}data has dtype {data.dtype} and shape {data.shape}; expected uint8 (images), "
            "bool (spikes) or float for several features, and [samples, time] for symbols."
        )
    with reading(f"{where}attributes"):
        attributes = dict(group.file.attrs)
        of_data = dict(data.attrs)
    held = _number(of_data, "frames", where + "data", whole=True)
    scale = _number(of_data, "scale", where + "data")
    rate = _number(attributes, "frame_rate", f"{path}")
    duration = _number(attributes, "duration_ms", f"{path}")
    version = _number(attributes, "version", f"{path}")
    symbols = _number(attributes, "symbols", f"{path}", whole=True)
    classes = attributes.get("classes")
    labels = _labels(group, where, data.shape)
    sources = check_stored(data, where + "data")
    if version is not None and attributes.get("format") == store.FORMAT and version > store.VERSION:
        raise DataError(
            f"{path}: layout version {version:g}; this program reads up to {store.VERSION}."
        )
    if held is not None and data.shape[1] != 1:
        raise DataError(
            f"{where}data has attribute frames = {held:g} (one frame, held), but {data.shape[1]} "
            "frames are stored; expected shape [samples, 1, ...]."
        )
    if classes is not None:
        classes = np.atleast_1d(classes)
        if classes.dtype.kind not in "iu" or not classes.size or classes.min() < 0:
            raise DataError(
                f"{path}: attribute classes is {classes.tolist()}; expected integers from 0."
            )
    sample_bytes = math.prod(data.shape[1:]) * data.dtype.itemsize
    chunk = data.chunks[0] if data.chunks else 1
    split = Split(
        path=path,
        name=name,
        shape=data.shape,
        dtype=data.dtype,
        block=chunk * max(1, store.BLOCK_BYTES // (chunk * sample_bytes)),
        labels=None,
        held_frames=None if held is None else int(held),
        scale=scale,
        rate_hz=rate,
        duration_ms=duration,
        classes=None if classes is None else tuple(int(c) for c in classes.ravel()),
        symbols=None if symbols is None else int(symbols),
        sources=sources,
    )
    if labels is None:
        return split
    sources = check_stored(labels, where + "labels")
    split = replace(split, sources=tuple(dict.fromkeys((*split.sources, *sources))))
    per_step = labels.ndim == 3 and labels.shape[1] == split.frames
    if labels.dtype.kind == "f" and labels.ndim > 2 and not per_step:
        # in blocks of the same samples as the data's, so that both are read once
        images = replace(split, shape=labels.shape, dtype=labels.dtype, dataset="labels")
        return replace(split, images=images)
    with reading(f"{where}labels"):
        values: Array = labels[()]
    if labels.dtype.kind != "f":
        if labels.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
            raise DataError(f"{where}labels: {values.max()} is no class; expected 0, 1, ...")
        return replace(split, labels=values.astype(np.int64))
    check_values(values, f"{where}labels")
    return replace(split, labels=values.astype(np.float32))


def _dataset(group: h5py.Group, name: str, where: str) -> h5py.Dataset | None:
    """A dataset with a shape and a type that NumPy has; None if there is none of that name."""
    item = child(group, name, where)
    if not isinstance(item, h5py.Dataset):
        return None
    with reading(f"{where}{name}"):
        shape, dtype = item.shape, item.dtype
    if shape is None:
        raise DataError(f"{where}{name}: an empty dataset of {dtype}, without a shape.")
    return item


def _labels(group: h5py.Group, where: str, shape: tuple[int, ...]) -> h5py.Dataset | None:
    """The dataset of labels, if there is one, checked without being read."""
    dataset = _dataset(group, "labels", where)
    if dataset is None and child(group, "labels", where) is None:
        return None
    if dataset is None or dataset.dtype.kind not in "biuf":
        kind = "a group" if dataset is None else dataset.dtype
        raise DataError(
            f"{where}labels: {kind}; expected a dataset of integers, booleans or floats."
        )
    if dataset.shape[:1] != shape[:1] or 0 in dataset.shape:
        advice = "one label per sample in both, in the same order."
        if dataset.shape[:1] == shape[1:2]:
            advice = (
                f"samples first, [N, T, ...], but the data look like [T, N, ...] with {shape[1]} "
                "samples. Swap their first two axes (numpy.swapaxes(data, 0, 1))."
            )
        raise DataError(
            f"{where}data has {shape[0]} samples but labels have shape {dataset.shape}; expected "
            f"{advice}"
        )
    return dataset


def _number(
    attributes: Mapping[str, Any], name: str, where: str, *, whole: bool = False
) -> float | None:
    """A numeric attribute above 0, or None where it is absent."""
    if name not in attributes:
        return None
    value = np.asarray(attributes[name])
    number = float(value.item()) if value.size == 1 and value.dtype.kind in "iuf" else math.nan
    if not 0 < number < math.inf or (whole and number % 1):
        expected = "a whole number > 0" if whole else "a number > 0"
        raise DataError(f"{where}: attribute {name} is {attributes[name]!r}; expected {expected}.")
    return number


def _holdings(group: h5py.Group) -> str:
    """A short list of the items in a group."""
    with reading(group.name):
        items = [described(name, _item(group, name)) for name in list(group)[:10]]
        more = ", ..." if len(group) > 10 else ""
    return ", ".join(items) + more if items else "nothing"


def described(name: str, item: Item | None) -> str:
    """A dataset with type and shape, or a group with its items; None if it cannot be opened."""
    if isinstance(item, h5py.Dataset):
        return f"{name} {item.dtype} {'empty' if item.shape is None else list(item.shape)}"
    if isinstance(item, h5py.Group):
        return f"{name}/ ({', '.join(list(item)[:5]) or 'empty'})"
    return f"{name} (cannot be opened)"


def _item(group: h5py.Group, name: str) -> Item | None:
    try:
        return child(group, name, "")
    except DataError:
        return None
