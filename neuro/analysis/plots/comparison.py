"""Plots of a comparison: configurations over one another, in the look of `plots.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.analysis.compare.statistics import MeanInterval
from neuro.analysis.metrics import Direction, is_fraction
from neuro.analysis.plots import style
from neuro.runs.record import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: points of a curve that is drawn
_POINTS = 300


class Point(NamedTuple):
    """A configuration in the plane of two metrics."""

    label: str
    x: MeanInterval
    y: MeanInterval


class Band(NamedTuple):
    """A metric over a configuration's runs: at each step the mean, the least and the greatest."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(runs: Sequence[Series]) -> Band:
    """Mean and range over runs, at the steps that all of them cover.

    Runs that logged at other steps are interpolated; values that were not finite are passed over.
    """
    known = []
    for run in runs:
        steps, values = np.asarray(run.steps, float), np.asarray(run.values, float)
        order = np.argsort(steps)[np.isfinite(values[np.argsort(steps)])]
        if len(order):
            known.append((steps[order], values[order]))
    if not known:
        return Band(*(np.empty(0) for _ in Band._fields))
    first, last = max(s[0] for s, _ in known), min(s[-1] for s, _ in known)
    steps = np.unique(np.concatenate([s for s, _ in known]))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) > _POINTS:
        steps = steps[np.linspace(0, len(steps) - 1, _POINTS).astype(int)]
    values = np.array([np.interp(steps, s, v) for s, v in known])
    return Band(steps, values.mean(0), values.min(0), values.max(0))


@style.styled
def learning_curves(curves: Mapping[str, Sequence[Series]], metric: str) -> Figure:
    """A metric over optimizer steps for each configuration: mean, and range over its runs."""
    figure = style.new_figure(8.6, 3.4)
    ax = figure.subplots()
    colours = style.colours(curves)
    for label, runs in curves.items():
        found = band(runs)
        few = len(found.steps) <= 30
        ax.plot(
            found.steps, found.mean, color=colours[label], label=label,
            marker="o" if few else None, markersize=3.5,
        )  # fmt: skip
        ax.fill_between(
            found.steps, found.low, found.high, color=colours[label], alpha=0.15, linewidth=0
        )
    ax.set(xlabel="optimizer step", ylabel=metric)
    style.thousands(ax.xaxis)
    if is_fraction(metric):
        style.percent(ax.yaxis)
    style.legend_beside(ax)
    return figure


def front(points: Sequence[Point], directions: tuple[Direction, Direction]) -> list[Point]:
    """The points whose means no other point's equal or surpass in both metrics, by x."""
    signs = [1.0 if direction == "max" else -1.0 for direction in directions]

    def gains(point: Point) -> tuple[float, float]:
        return signs[0] * point.x.mean, signs[1] * point.y.mean

    def dominated(point: Point) -> bool:
        x, y = gains(point)
        others = (gains(other) for other in points)
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in others)

    return sorted((p for p in points if not dominated(p)), key=lambda p: p.x.mean)


@style.styled
def pareto(
    points: Sequence[Point],
    metrics: tuple[str, str],
    directions: tuple[Direction, Direction],
    named: int = len(style.PALETTE),
) -> Figure:
    """Configurations in the plane of two metrics, with their intervals; the front is joined.

    The first `named` points and those of the front are in the legend. The means decide what is
    visible; intervals that are much wider than their spread reach out of the plot.
    """
    figure = style.new_figure(8.6, 4.2)
    ax = figure.subplots()
    best = front(points, directions)
    ax.plot(
        [p.x.mean for p in best], [p.y.mean for p in best], color=style.MUTED, linewidth=1.0,
        zorder=2,
    )  # fmt: skip
    shown = [p for i, p in enumerate(points) if i < named or p in best]
    colours = style.colours(p.label for p in shown)
    for point in points:
        colour = colours.get(point.label, style.FAINT)
        ax.errorbar(
            point.x.mean, point.y.mean,
            xerr=None if point.x.half_width is None else [point.x.half_width],
            yerr=None if point.y.half_width is None else [point.y.half_width],
            fmt="D" if point in best else "o", markersize=6, color=colour, elinewidth=0.8,
            alpha=0.9, zorder=3, label=point.label if point in shown else None,
        )  # fmt: skip
    for axis, limits, values, metric, direction in (
        (ax.xaxis, ax.set_xlim, [p.x for p in points], metrics[0], directions[0]),
        (ax.yaxis, ax.set_ylim, [p.y for p in points], metrics[1], directions[1]),
    ):
        limits(*_limits(values))
        better = "more is better" if direction == "max" else "less is better"
        axis.set_label_text(f"{metric} ({better})")
        if is_fraction(metric):
            style.percent(axis)
    style.legend_beside(ax)
    return figure


def _limits(values: Sequence[MeanInterval]) -> tuple[float, float]:
    """Room for all means, and for intervals as far as half of the means' spread."""
    low, high = min(v.mean for v in values), max(v.mean for v in values)
    spread = high - low or max((v.half_width or 0.0 for v in values), default=0.0) or abs(high) or 1
    return low - 0.5 * spread, high + 0.5 * spread
