"""Plots of analogue states and of weights and parameters behind them: arrays in, a Figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: panels of histograms beside each other
_COLUMNS = 3


class Spread(NamedTuple):
    """How values are spread: at the start of training, and now."""

    now: ArrayLike  # [N]
    start: ArrayLike  # [M]


@style.styled
def histograms(spreads: Mapping[str, Spread], title: str = "Weights") -> Figure:
    """A histogram for each name, over the outline of what it was at the start, or a line at it.

    Both are shares of their own number of values, so pruned weights do not make it lower.
    """
    columns = min(_COLUMNS, max(len(spreads), 1))
    rows = math.ceil(max(len(spreads), 1) / columns)
    figure = style.new_figure(0.6 + 3.2 * columns, 1.2 + 2.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, spread) in zip(axes, spreads.items(), strict=False):
        _histogram(ax, np.asarray(spread.now, float), np.asarray(spread.start, float))
        ax.set_title(name)
    for ax in axes[len(spreads) :]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower right", ncols=len(labels))
    style.title(figure, title)
    return figure


def _histogram(ax: Axes, now: np.ndarray, start: np.ndarray) -> None:
    both = np.concatenate([now, start])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    margin = 0.02 * (high - low) or 0.05 * (abs(high) or 1.0)
    bins = np.linspace(low - margin, high + margin, int(np.clip(len(now) // 2, 10, 40)) + 1)
    shares, before = (np.histogram(v, bins)[0] / max(len(v), 1) for v in (now, start))
    ax.stairs(shares, bins, fill=True, color=style.PALETTE[0], alpha=0.75, label="now")
    if len(start) and start.min() == start.max():
        ax.axvline(start[0], color=style.INK, linewidth=1.2, label="start")
    else:
        ax.stairs(before, bins, color=style.INK, linewidth=1.2, label="start")
    style.percent(ax.yaxis)
    ax.locator_params(axis="x", nbins=5)
    ax.set_ylabel(f"share of {len(now):,}".replace(",", " "))


@style.styled
def trajectories(
    states: Sequence[Mapping[str, ArrayLike]],
    labels: Sequence[str],
    nodes: int = 12,
    title: str = "States over time",
) -> Figure:
    """States `[T, N]` of each layer (a row) for each sample (a column).

    At most `nodes` nodes of a layer are drawn, evenly chosen; those of the last layer, if it is
    drawn whole, can be told apart.
    """
    names = list(states[0])
    figure = style.new_figure(1.6 + 3.1 * len(states), 1.2 + 1.9 * len(names))
    axes = figure.subplots(len(names), len(states), sharex=True, sharey="row", squeeze=False)
    for column, (sample, label) in enumerate(zip(states, labels, strict=True)):
        for ax, name in zip(axes[:, column], names, strict=True):
            values = np.asarray(sample[name], float)
            whole = name == names[-1] and values.shape[1] <= min(nodes, 2 * len(style.PALETTE))
            _lines(ax, values, nodes, named=whole)
            if column == 0:
                shown = min(nodes, values.shape[1])
                part = f"{shown} of " if shown < values.shape[1] else ""
                ax.set_ylabel(f"{name}\n{part}{values.shape[1]} nodes")
            if whole and column == len(states) - 1:
                style.legend_beside(ax)
        axes[0, column].set_title(label)
        axes[-1, column].set_xlabel("step")
        style.thousands(axes[-1, column].xaxis)
    style.title(figure, title)
    return figure


def _lines(ax: Axes, values: np.ndarray, nodes: int, *, named: bool) -> None:
    steps, width = values.shape
    chosen = np.unique(np.linspace(0, width - 1, min(nodes, width)).round().astype(int))
    shades = style.PALETTE if named else style.PALETTE[:1]
    for i, node in enumerate(chosen):
        ax.plot(
            np.arange(1, steps + 1), values[:, node], color=shades[i % len(shades)],
            linestyle="--" if named and i >= len(shades) else "-", label=str(node),
            linewidth=1.3 if named else 0.9, alpha=1.0 if named else 0.55,
        )  # fmt: skip
    ax.margins(x=0.01)
