"""Continuations of a text beside the true ones."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 52  # characters of a column
_LINE_INCHES = 0.118


class Continuation(NamedTuple):
    """A prompt, what a model wrote after it, and what follows in the text."""

    prompt: str
    written: str
    truth: str


@style.styled
def continuations(samples: Sequence[Continuation], title: str = "") -> Figure:
    """Print samples one below the other, in columns of fixed width."""
    columns = [[_lines(text) for text in sample] for sample in samples]
    heights = [1 + max(map(len, row)) for row in columns]
    figure = style.new_figure(13.0, 0.6 + _LINE_INCHES * (2 + sum(heights)))
    axes = figure.subplots(len(samples), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, (texts, number) in enumerate(zip(columns, heights, strict=True)):
        for ax, lines in zip(axes[row], texts, strict=True):
            ax.axis("off")
            ax.set_ylim(0, number)
            ax.text(
                0, number, "\n".join(lines), family="monospace", fontsize=7, va="top", ha="left",
                parse_math=False, linespacing=1.15,
            )  # fmt: skip
    for ax, heading in zip(axes[0], ("prompt", "model", "truth"), strict=True):
        ax.set_title(heading, loc="left", fontsize=9)
    style.title(figure, title)
    return figure


def _lines(text: str) -> list[str]:
    """Lines of the column's width; characters that cannot be printed as escapes."""
    shown = []
    for line in text.split("\n"):
        printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        shown += textwrap.wrap(printable, _WIDTH, drop_whitespace=False) or [""]
    return shown
