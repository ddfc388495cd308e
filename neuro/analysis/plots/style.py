"""Common style of all plots: colours, fonts, new figures, axis formats and legends.

Functions import matplotlib themselves, so that importing a plot module stays cheap. The palette
follows Okabe & Ito (2008, "Color Universal Design"), whose colours are distinct in all common
kinds of colour blindness; brown replaces their yellow, and purple is darker.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import numpy as np

from neuro.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

P = ParamSpec("P")

#: blue, vermilion, green, orange, purple, sky, brown, black
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#B4659A",
    "#56B4E9",
    "#7A5C3E",
    "#222222",
)
#: line styles, so that curves that coincide remain visible
LINES: tuple[Any, ...] = ("-", (0, (4, 1)), (0, (1, 1)))
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#E3E3E3"


def style() -> dict[str, object]:
    """matplotlib's rcParams for all plots."""
    from cycler import cycler

    return {
        "axes.axisbelow": True,
        "axes.edgecolor": MUTED,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.labelsize": 10,
        "axes.linewidth": 0.8,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlecolor": INK,
        "figure.facecolor": "white",
        "figure.titlesize": 13,
        "figure.titleweight": "bold",
        "font.family": "DejaVu Sans",  # part of matplotlib, so that plots look the same everywhere
        "font.size": 9.5,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "text.color": INK,
        "xtick.color": MUTED,
        "xtick.labelcolor": INK,
        "xtick.labelsize": 9,
        "ytick.color": MUTED,
        "ytick.labelcolor": INK,
        "ytick.labelsize": 9,
    }


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a plot function to use our rcParams; the global ones are restored afterwards."""

    @functools.wraps(plot)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(cast(dict[Any, Any], style())):
            return plot(*args, **kwargs)

    return drawn


def save(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure atomically; the suffix chooses the format (.png, .pdf or .svg)."""
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=path.suffix.lstrip(".") or "png")
    return path


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure with constrained layout; width and height are in inches.

    Without pyplot, so that it needs no display and is freed with its last reference.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    return figure


def title(figure: Figure, text: str) -> None:
    """Set the figure's title at its left, wrapped if it is long; does nothing for an empty text."""
    if text:
        # an average letter of the title's bold font takes 0.115 inches
        figure.suptitle(wrapped(text, int(figure.get_figwidth() / 0.115)), x=0.01, ha="left")


def wrapped(text: str, width: int) -> str:
    """Break text into lines of at most `width` characters, if possible after one of `/,=_ `."""
    lines, line = [], ""
    for part in re.findall(r"[^ /,=_]*[ /,=_]?", text):
        while len(line + part.rstrip()) > width:
            if not line:
                line, part = part[:width], part[width:]
            lines.append(line.rstrip())
            line = ""
        line += part
    return "\n".join([*lines, line.rstrip()] if line.strip() else lines)


def colours(names: Iterable[str]) -> dict[str, str]:
    """Map each name to a colour of the palette, which repeats after its last colour."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def boxcar(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average of `width` values that ignores NaN; shorter windows at the ends."""
    width = min(width, len(values))
    if width <= 1:
        return values
    known = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mark_phases(
    axes: Sequence[Axes], phases: Sequence[tuple[str, int]], named: bool = True
) -> None:
    """Draw a line at the first step of each phase but the first, and names in the top panel.

    - `phases`: (name, first step)
    """
    for name, first in phases:
        for ax in axes:
            if first > 0:
                ax.axvline(first, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if named:
            start = max(first, axes[0].get_xlim()[0])
            axes[0].annotate(
                name,
                (start, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 3),
                textcoords="offset points",
                fontsize=9,
                color=MUTED,
            )


def legend_beside(ax: Axes) -> None:
    """Add a legend at the right of the panel, outside of it."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def legend_outside(ax: Axes) -> None:
    """Add a legend beside the panel of a figure with one, or below it if a label is long.

    The figure grows by the height of a legend below.
    """
    handles, labels = ax.get_legend_handles_labels()
    if max(map(len, labels), default=0) <= 24:
        legend_beside(ax)
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    # an average letter of the legend's font takes 0.075 inches, a line 0.18
    texts = [wrapped(label, int((width - 0.8) / 0.075)) for label in labels]
    lines = sum(text.count("\n") + 1 for text in texts)
    figure.set_size_inches(width, height + 0.1 + 0.18 * lines)
    figure.legend(handles, texts, loc="outside lower left", ncols=1)


def percent(axis: Axis) -> None:
    """Show fractions as percent at the ticks."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def plain_numbers(axis: Axis) -> None:
    """Show whole numbers such as 0.0002 at the ticks, without matplotlib's common exponent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def log_ticks(axis: Axis) -> None:
    """Show ticks such as 0.001, 0.002 and 0.005 on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_minor_formatter(NullFormatter())
    plain_numbers(axis)


def thousands(axis: Axis) -> None:
    """Show integers at the ticks, with a space between thousands."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
