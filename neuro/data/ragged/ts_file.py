"""Files of labelled time series in the format `.ts` of aeon and sktime.

    # comment
    @problemName JapaneseVowels
    @timeStamps false
    @missing false
    @univariate false
    @dimensions 12
    @equalLength false
    @classLabel true 1 2 3
    @data
    1.86,1.89,1.94:-0.21,-0.19,-0.24: ... :2

A line of data holds the channels of one sample, separated by colons, then its label.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from neuro.data.store import Array
from neuro.errors import DataError


class TimeSeries(NamedTuple):
    """Series `[T_i, C]` float32, their labels as numbers, and the names of the labels."""

    series: list[Array]
    labels: Array
    names: tuple[str, ...]


def read_ts(path: Path) -> TimeSeries:
    """Read a file. DataError says what is wrong in which line."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    header: dict[str, list[str]] = {}
    rows: list[tuple[int, str]] = []
    in_data = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if in_data:
            rows.append((number, line))
        elif line.startswith("@"):
            key, *values = line[1:].split()
            header[key.lower()] = values
            in_data = key.lower() == "data"
        else:
            raise DataError(f"{path}: line {number} lies before @data; is this a .ts file?")
    _check_header(path, header, rows)
    names = tuple(header["classlabel"][1:])
    series, labels, channels = [], [], None
    for number, line in rows:
        *fields, label = line.split(":")
        where = f"{path}: line {number}"
        if label.strip() not in names:
            raise DataError(
                f"{where}: label {label.strip()!r}; @classLabel lists {', '.join(names)}."
            )
        sample = [_values(field, f"{where}, channel {c}") for c, field in enumerate(fields, 1)]
        sizes = {len(channel) for channel in sample}
        if len(sizes) != 1:
            raise DataError(
                f"{where}: channels of {' and '.join(map(str, sorted(sizes)))} values; all "
                "channels of a sample need the same number."
            )
        channels = channels or len(sample)
        if len(sample) != channels:
            raise DataError(f"{where}: {len(sample)} channels; samples before have {channels}.")
        series.append(np.stack(sample, 1))
        labels.append(names.index(label.strip()))
    return TimeSeries(series, np.asarray(labels, np.int64), names)


def _check_header(path: Path, header: dict[str, list[str]], rows: list[tuple[int, str]]) -> None:
    if "data" not in header:
        raise DataError(f"{path}: no line @data; is this a .ts file?")
    if header.get("timestamps", ["false"])[:1] == ["true"]:
        raise DataError(f"{path}: has time stamps (@timeStamps true); give evenly spaced values.")
    labelled = header.get("classlabel", ["false"])
    if labelled[:1] != ["true"] or len(labelled) < 3:
        raise DataError(
            f"{path}: no classes; expected `@classLabel true` and the names of at least two."
        )
    if not rows:
        raise DataError(f"{path}: no samples after @data.")


def _values(field: str, where: str) -> Array:
    try:
        values = np.array(field.split(","), np.float32)
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise DataError(
            f"{where}: missing or wrong value in {field[:40]!r}; expected numbers separated by "
            "commas. Fill the gaps first, for instance by interpolation."
        )
    return values
