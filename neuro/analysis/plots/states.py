"""Plots of analogue states over time, and histograms of weights and parameters."""

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

#: histograms in a row
_COLUMNS = 3


class Distributions(NamedTuple):
    """Distributions of a tensor now and at the start of training."""

    now: ArrayLike  # [N]
    start: ArrayLike  # [M]


@style.styled
def histograms(
    values: Mapping[str, Distributions], title: str = "Weights", quantity: str = "value"
) -> Figure:
    """Plot a histogram for each name, with the outline of the one at the start of training.

    - `quantity`: label of the x axes

    If all values were equal at the start, a line marks them. Each histogram is normalised by its
    own number of values, so that pruned weights do not lower it.
    """
    columns = min(_COLUMNS, max(len(values), 1))
    rows = math.ceil(max(len(values), 1) / columns)
    figure = style.new_figure(0.6 + 3.2 * columns, 1.2 + 2.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, (now, start)) in zip(axes, values.items(), strict=False):
        _histogram(ax, np.asarray(now, float), np.asarray(start, float))
        ax.set_title(style.wrapped(name, 30))
        ax.set_xlabel(quantity)
    for ax in axes[len(values) :]:
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
    after, before = (np.histogram(v, bins)[0] / max(len(v), 1) for v in (now, start))
    ax.stairs(after, bins, fill=True, color=style.PALETTE[0], alpha=0.75, label="now")
    if len(start) and start.min() == start.max():
        ax.axvline(start[0], color=style.INK, linewidth=1.2, label="start")
    else:
        ax.stairs(before, bins, color=style.INK, linewidth=1.2, label="start")
    style.percent(ax.yaxis)
    ax.locator_params(axis="x", nbins=3)  # labels such as 0.00098 are wide
    ax.set_ylabel(f"fraction of {len(now):,}".replace(",", " "))


@style.styled
def trajectories(
    states: Sequence[Mapping[str, ArrayLike]],
    labels: Sequence[str],
    nodes: int = 12,
    title: str = "States over time",
) -> Figure:
    """Plot states over time: rows are layers, columns samples.

    - `states`: for each sample, the states `[T, N]` of each layer
    - `labels`: title of each sample's column
    - `nodes`: most nodes of a layer that are drawn; of larger layers, evenly spaced ones

    Nodes have a legend in the last layer only, if all of its nodes are drawn.
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
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    shades = style.PALETTE if named else style.PALETTE[:1]
    for i, node in enumerate(chosen):
        ax.plot(
            np.arange(1, steps + 1),
            values[:, node],
            color=shades[i % len(shades)],
            linestyle="--" if named and i >= len(shades) else "-",
            label=str(node),
            linewidth=1.3 if named else 0.9,
            alpha=1.0 if named else 0.55,
            # spikes are events of one step, not slopes between steps
            drawstyle="steps-mid" if binary else "default",
        )
    ax.margins(x=0.01)
