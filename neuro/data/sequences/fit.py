"""Check that the files of a task fit each other, and measure properties of its training split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from neuro.data import store
from neuro.data.parts import Part
from neuro.errors import DataError

#: labels from here on are suspected of being ids or values: fewer than one of `SPARSE` occurs
MANY_CLASSES, SPARSE = 100_000, 100

InputEncoding = Literal["raw", "one_hot", "tokens"]


def check_encoding(split: store.Split, encoding: InputEncoding) -> None:
    """DataError if a split does not hold symbols, or values, as `input_encoding` says."""
    what = f"{split.where}: {split.dtype} of shape {list(split.shape)}"
    if encoding != "raw" and not split.may_be_symbols:
        raise DataError(
            f"{what}; data.input_encoding={encoding} expects integers [N, T] or [N, T, 1]. Set "
            "data.input_encoding=raw for values."
        )
    if encoding == "raw" and not split.may_be_values:
        raise DataError(
            f"{what} are symbols; set data.input_encoding=one_hot (or tokens, for a model that "
            "embeds them), or write values as float [N, T, features]."
        )


def check_task(
    task: str,
    splits: Mapping[str, store.Split],
    classes: tuple[int, ...] | None,
    outputs: int | None,
    rate_hz: float | None,
) -> None:
    """DataError if a task's splits do not fit each other or labels are not among the classes.

    `classes`, `outputs` and `rate_hz` are what the config gives instead of the files.
    """
    first = splits["train"]
    for split in splits.values():
        if _form(split) != _form(first):
            raise DataError(
                f"{split.where}: {_form(split)}, but {first.where}: {_form(first)}; expected "
                f"the same for all splits of task {task!r}."
            )
        if rate_hz is None and split.rate_hz and split.duration_ms:
            frames = split.rate_hz * split.duration_ms / 1000
            if abs(frames - split.frames) > 0.5:
                raise DataError(
                    f"{split.where}: {split.frames} frames, but its attributes frame_rate and "
                    f"duration_ms make {frames:g}. Correct them or set data.rate_hz."
                )
        if split.images is not None or (
            split.labels is not None and split.labels.dtype.kind == "f"
        ):
            if classes is not None:
                raise DataError(f"{split.path}: labels are floats; expected integer classes.")
        elif split.labels is not None:
            check_labels(split, classes or split.classes, outputs)


def check_labels(split: store.Split, classes: tuple[int, ...] | None, outputs: int | None) -> None:
    """DataError unless integer labels are classes; steps and places may be `store.NO_LABEL`."""
    labels = split.labels
    assert labels is not None
    wrong = labels < 0 if classes is None else ~np.isin(labels, classes)
    if labels.ndim > 1:
        wrong &= labels != store.NO_LABEL
    if wrong.any():
        where = np.argwhere(wrong)[0]
        expected = "is negative" if classes is None else f"is outside the classes {classes}"
        raise DataError(
            f"{split.path}: label {labels[tuple(where)]} of sample {where[0]} of "
            f"{split.name or 'labels'} {expected}."
        )
    highest = int(labels.max())
    if outputs is None and classes is None and highest >= MANY_CLASSES:
        occurring = len(np.unique(labels))
        if highest >= SPARSE * occurring:
            raise DataError(
                f"{split.path}: labels up to {highest} would need {highest + 1} outputs, for "
                f"{occurring} different labels. Number the classes 0 to {occurring - 1}, write "
                "labels that are values as floats, or set data.outputs."
            )
    if outputs is not None and highest >= outputs:
        raise DataError(
            f"{split.path}: label {highest} with data.outputs={outputs}; "
            f"expected 0 to {outputs - 1}."
        )


def _form(split: store.Split) -> str:
    """Properties that all splits of a task must share."""
    found = split.labels if split.images is None else split.images
    labels = "no labels"
    if found is not None:
        kind = "float" if found.dtype.kind == "f" else "integer"
        labels = f"{kind} labels [{', '.join(map(str, ('N', *found.shape[1:])))}]"
    rate = f" at {split.rate_hz:g} Hz" if split.rate_hz else ""
    return f"{split.frames} frames of {list(split.shape[2:])}{rate}, {labels}"


def range_of(train: Sequence[Part]) -> tuple[float, float]:
    """Lowest and highest value of training parts, in the units of inputs."""
    low, high = np.inf, -np.inf
    for part in train:
        for piece in part.pieces():
            low = min(low, float(piece.min()) * part.encoding.scale)
            high = max(high, float(piece.max()) * part.encoding.scale)
    if low == high:
        raise DataError(
            f"{train[0].split.where}: all training values are {low:g}, which no line maps to "
            "data.min_scale and data.max_scale; set both to null."
        )
    return low, high


def symbols_of(train: Sequence[Part]) -> int:
    """How many symbols there are: as the files say, else up to the highest that is trained on."""
    declared = [part.split.symbols for part in train if part.split.symbols is not None]
    if declared:
        return max(declared)
    return 1 + max(int(piece.max()) for part in train for piece in part.pieces())
