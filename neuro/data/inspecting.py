"""Describe the content of a data file, whether neuro can use it, and commands that do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuro.config import commands
from neuro.config.paths import expanded
from neuro.data import layout
from neuro.data.hdf5_file import opened, reading
from neuro.data.images import idx
from neuro.data.ragged.event_file import described as described_events
from neuro.data.ragged.event_file import has_pixels, is_event_file
from neuro.data.ragged.ts_file import read_ts
from neuro.data.sequences.fit import check_labels
from neuro.data.store import Split
from neuro.data.tokens.inspecting import described, samples
from neuro.data.tokens.shards import MANIFEST, Shards
from neuro.data.uses import Use, expected_shapes, target_of, uses_of
from neuro.errors import DataError

#: advice for files that may be text
_TEXT = " Text is made into tokens first: python -m neuro data make data=text path=..."
#: frame rate in printed commands if the file has none
RATE_HZ = 1000


def inspected(path: Path) -> list[str]:
    """Lines that describe the content of a file and its use.

    DataError with the description for a file that cannot be used.
    """
    path = Path(expanded(str(path)))
    if (path / MANIFEST).is_file():
        shards = Shards(path, verify=True)
        return [*described(shards), *samples(shards)]
    if path.is_dir():
        found = sorted(item.name for item in path.iterdir())
        shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise DataError(
            f"{path}: is a directory without {MANIFEST}; expected a file (HDF5, IDX, .ts) or a "
            f"folder of tokens. It holds {shown or 'nothing'}.{_TEXT}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if path.suffix == ".ts":
        return list(_inspect_ts(path))
    if h5py.is_hdf5(path):
        return list(_inspect_events(path)) if is_event_file(path) else _inspect_hdf5(path)
    try:
        with path.open("rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if not idx.is_idx(start):
        raise DataError(f"{path}: neither HDF5 nor IDX nor .ts (begins with {start!r}).{_TEXT}")
    return list(_inspect_idx(path))


def _inspect_hdf5(path: Path) -> list[str]:
    lines = [f"{path}: HDF5, {_size(path)}"]
    try:
        splits = layout.read(path)
    except DataError as error:
        # show what is there before saying why it cannot be used
        lines = [str(error), *(f"  {line}" for line in layout.listing(path)), *_expected()]
        raise DataError("\n".join(lines)) from error
    first = next(iter(splits.values()))
    with opened(path) as file, reading(f"{path}"):
        lines += [f"  {name}: {value}" for name, value in file.attrs.items()]
    problems: list[str] = []
    for split in splits.values():
        lines.append(f"{split.name or 'root'}: {split.shape[0]} samples")
        lines += [f"  {line}" for line in _describe_split(split, problems)]
    if unread := layout.unread(path):
        lines.append(f"not read: {', '.join(unread[:20])}{', ...' if len(unread) > 20 else ''}")
    if problems:
        lines += ["not usable as it is:", *(f"  {problem}" for problem in problems), *_expected()]
        raise DataError("\n".join(lines))
    return [*lines, "well-formed for neuro", *_commands(path, first)]


def _commands(path: Path, split: Split) -> Iterator[str]:
    """The ways to learn from a split, with a command for each."""
    symbols = not split.may_be_values
    spiking = len(split.shape) == 5  # frames of channels, else vectors or symbols
    if spiking and split.rate_hz is None:
        yield f"no attribute frame_rate: {RATE_HZ} Hz in the commands stands for your data.rate_hz"
    if split.may_be_symbols:
        also = "" if symbols else " too: data.input_encoding=one_hot"
        yield f"integers 0, 1, ... may be symbols{also}; tokens for a model that embeds them"
    own = replace(split, labels=None, images=None)
    found = [*uses_of(target_of(split, symbols))]
    own_uses = uses_of(target_of(own, symbols))
    found += [u for u in own_uses if u.paradigm == "self_supervised" and u not in found]
    data = ["data=hdf5", commands.override("data.path", str(path))]
    data += [f"data.rate_hz={RATE_HZ}"] if spiking and split.rate_hz is None else []
    data += ["data.input_encoding=one_hot"] if symbols else []
    yield (
        "what can be learned from it (RUN: a finished run that teaches; MODEL: one that gives "
        "images, see docs/extending.md):"
    )
    for use in found:
        yield f"  {use.paradigm}, {use.mapping}, by {', '.join(use.losses)}"
        model = "MODEL" if use.mapping == "none" else "lif" if spiking else "soen"
        command = commands.launch([f"model={model}", "phase=single", *data, *_overrides(use)])
        yield f"    {command}"


def _overrides(use: Use) -> Iterator[str]:
    """Overrides of the default objective (classification of sequences) for a use."""
    if use.paradigm != "supervised":
        yield f"objective.paradigm={use.paradigm}"
    if use.mapping != "seq2static":
        yield f"objective.mapping={use.mapping}"
    if use.paradigm == "distillation":
        yield f"loss=[{use.losses[1]},{use.losses[0]}]"
        yield "teacher=RUN"
    elif use.losses[0] != "cross_entropy":
        yield f"loss=[{use.losses[0]}]"


def _expected() -> Iterator[str]:
    yield "expected (N samples, T steps, D features or channels, height, width, K outputs):"
    yield from (f"  {line}" for line in expected_shapes())


def _describe_split(split: Split, problems: list[str]) -> Iterator[str]:
    held = f", one frame held for {split.held_frames}" if split.held_frames else ""
    yield f"data {split.dtype} {list(split.shape)}{held}; read in blocks of {split.block} samples"
    rate = f"{split.rate_hz:g} Hz, dt {1000 / split.rate_hz:g} ms, " if split.rate_hz else ""
    yield f"timing {rate}{split.frames} frames"
    try:
        split.verify()
    except DataError as error:
        problems.append(str(error))
    else:
        low, high = _range(split)
        scale = f"times {split.scale:g}" if split.scale else "no scale given"
        yield f"values {low:g} to {high:g}, {scale}"
    if split.images is not None:
        yield f"labels {split.images.dtype} {list(split.images.shape)}: an image for each sample"
    elif split.labels is None:
        yield "no labels"
    elif split.labels.dtype.kind == "f":
        yield f"labels float {list(split.labels.shape)}"
    else:
        yield f"labels int {list(split.labels.shape)}: {_counts(split.labels)}"
        try:
            check_labels(split, split.classes, None)
        except DataError as error:
            problems.append(str(error))


def _range(split: Split) -> tuple[float, float]:
    with split.blocks() as reader:
        numbers = range(-(-split.shape[0] // split.block))
        extremes = [(b.min(), b.max()) for b in (reader.read(n) for n in numbers)]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def _inspect_idx(path: Path) -> Iterator[str]:
    array = idx.read(path)
    yield f"{path}: IDX, {_size(path)}, uint8 {list(array.shape)}"
    if array.ndim == 1:
        yield f"labels: {_counts(array)}"
    elif array.size:
        yield f"values {array.min()} to {array.max()}"
    folder = commands.argument("data.images.path", str(path.parent))
    yield f"use it:  data=temporal_mnist {folder}"
    yield "         (with its three companions)"


def _inspect_ts(path: Path) -> Iterator[str]:
    found = read_ts(path)
    lengths = [len(series) for series in found.series]
    named = np.asarray(found.names)[found.labels]
    yield f"{path}: time series, {_size(path)}"
    yield f"{len(lengths)} samples of {found.series[0].shape[1]} channels"
    yield f"{min(lengths)} to {max(lengths)} frames"
    yield f"labels: {_counts(named)}"
    yield from _ragged_commands("timeseries", path)


def _inspect_events(path: Path) -> Iterator[str]:
    yield f"{path}: events, {_size(path)}"
    yield from described_events(path)
    yield from _ragged_commands("events", path, "scnn" if has_pixels(path) else "rsnn")


def _ragged_commands(option: str, path: Path, model: str = "rsnn") -> Iterator[str]:
    yield f"well-formed for neuro; use it with a second file (TEST{path.suffix}):"
    paths = [commands.override("data.train_path", str(path)), f"data.test_path=TEST{path.suffix}"]
    yield f"    {commands.launch([f'model={model}', 'phase=single', f'data={option}', *paths])}"


def _counts(labels: np.ndarray[Any, Any]) -> str:
    values, counts = np.unique(labels, return_counts=True)
    shown = ", ".join(f"{v}: {c}" for v, c in list(zip(values, counts, strict=True))[:20])
    return f"{len(values)} classes ({shown}{', ...' if len(values) > 20 else ''})"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.3g} MB"
