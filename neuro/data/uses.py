"""Table of paradigms, mappings and losses by kind of targets, for `data inspect` and objectives.

It imports neither torch nor other parts of neuro, so that `data inspect` starts fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from neuro.data.store import Split

#: - class `[N]`, integers; class_sequence `[N, T]`, one per step; class_map `[N, ...]`, one per
#:   place, such as a pixel
#: - value `[N, K]`, numbers; value_sequence `[N, T, K]`, K per step; image `[N, ...]` of any shape
#: - token `[N, T]`: the inputs are symbols, and each is predicted from those before it
TargetKind = Literal[
    "class", "class_sequence", "class_map", "value", "value_sequence", "image", "token"
]
Paradigm = Literal["supervised", "self_supervised", "distillation"]
#: seq2static pools outputs over time, seq2seq has one per step, none leaves them as they are
OutputMapping = Literal["seq2static", "seq2seq", "none"]


class Use(NamedTuple):
    """A combination that fits a kind of targets; `losses` are terms for it, the usual one first.

    Terms without targets (on weights and states) can be added to all of them.
    """

    paradigm: Paradigm
    mapping: OutputMapping
    target: TargetKind
    losses: tuple[str, ...]


_CLASSES = ("cross_entropy", "top_gap_loss", "gap_loss", "rich_margin_loss")
_VALUES = ("mse", "smooth_l1")
_TAUGHT = ("distillation",)

USES = (
    Use("supervised", "seq2static", "class", _CLASSES),
    Use("supervised", "seq2static", "value", _VALUES),
    Use("supervised", "seq2seq", "class_sequence", _CLASSES),
    Use("supervised", "seq2seq", "value_sequence", _VALUES),
    Use("supervised", "seq2seq", "token", ("autoregressive_cross_entropy",)),
    Use("supervised", "none", "class_map", _CLASSES),
    Use("supervised", "none", "image", _VALUES),
    Use("self_supervised", "seq2seq", "value_sequence", _VALUES),
    Use("self_supervised", "seq2seq", "token", ("autoregressive_cross_entropy",)),
    Use("distillation", "seq2static", "class", (*_TAUGHT, *_CLASSES)),
    Use("distillation", "seq2static", "value", (*_TAUGHT, *_VALUES)),
    Use("distillation", "seq2seq", "class_sequence", (*_TAUGHT, *_CLASSES)),
    Use("distillation", "seq2seq", "value_sequence", (*_TAUGHT, *_VALUES)),
)

#: what a file holds where targets are of a kind: N samples, T steps, D features, K outputs
_SHAPES: dict[tuple[str, str], str] = {
    ("class", ""): "data [N, T, D], labels [N] int",
    ("value", ""): "data [N, T, D], labels [N] or [N, K] float",
    ("class_sequence", ""): "data [N, T, D], labels [N, T] int",
    ("value_sequence", ""): "data [N, T, D], labels [N, T, K] float",
    ("token", ""): "data [N, T] int, labels [N, T] int",
    ("class_map", ""): "data [N, T, ...], labels [N, ...] int",
    ("image", ""): "data [N, T, ...], labels [N, ...] float",
    ("value_sequence", "self_supervised"): "data [N, T, D]",
    ("token", "self_supervised"): "data [N, T] int",
}


def uses_of(target: str) -> Iterator[Use]:
    """The combinations that fit a kind of targets."""
    return (use for use in USES if use.target == target)


def target_of(split: Split, symbols: bool) -> TargetKind:
    """The kind of a split's labels; without any the data are their own target."""
    if split.images is not None:
        return "image"
    labels = split.labels
    if labels is None:
        return "token" if symbols else "value_sequence"
    if labels.dtype.kind == "f":
        return "value_sequence" if labels.ndim == 3 else "value"
    if labels.ndim == 1:
        return "class"
    return "class_sequence" if labels.shape[1:] == (split.frames,) else "class_map"


def expected_shapes() -> Iterator[str]:
    """The required content of a file for each combination."""
    for use in USES:
        own = use.paradigm if use.paradigm == "self_supervised" else ""
        shape = _SHAPES[use.target, own]
        yield f"{use.paradigm}, {use.mapping}: {shape}"
