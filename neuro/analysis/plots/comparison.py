"""Plots that compare configurations: learning curves, a Pareto plot, and lines over a number."""

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

#: most points of a drawn curve
_MAX_POINTS = 300


class Point(NamedTuple):
    """A configuration with its intervals of two metrics."""

    label: str
    x: MeanInterval
    y: MeanInterval


class LinePoint(NamedTuple):
    """A metric's interval at the place x."""

    x: float
    y: MeanInterval


class Band(NamedTuple):
    """Mean, minimum and maximum of a metric over a configuration's runs, at each step."""

    steps: np.ndarray  # [K]
    mean: np.ndarray  # [K]
    low: np.ndarray  # [K]
    high: np.ndarray  # [K]


def band(runs: Sequence[Series]) -> Band:
    """Mean and range over runs, at the steps that lie within the range of every run.

    Values between a run's steps are interpolated linearly; non-finite ones are left out. Without
    any finite value the arrays are empty.
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
    if len(steps) > _MAX_POINTS:
        steps = steps[np.linspace(0, len(steps) - 1, _MAX_POINTS).astype(int)]
    values = np.array([np.interp(steps, s, v) for s, v in known])
    return Band(steps, values.mean(0), values.min(0), values.max(0))


@style.styled
def learning_curves(curves: Mapping[str, Sequence[Series]], metric: str) -> Figure:
    """Plot a metric over optimizer steps, with mean and range over each configuration's runs."""
    figure = style.new_figure(8.6, 3.4)
    ax = figure.subplots()
    colours = style.colours(curves)
    for number, (label, runs) in enumerate(curves.items()):
        found = band(runs)
        few = len(found.steps) <= 30
        ax.plot(
            found.steps,
            found.mean,
            color=colours[label],
            label=label,
            linestyle=style.LINES[number % len(style.LINES)],
            marker="o" if few else None,
            markersize=3.5,
        )
        ax.fill_between(
            found.steps, found.low, found.high, color=colours[label], alpha=0.15, linewidth=0
        )
    ax.set(xlabel="optimizer step", ylabel=style.wrapped(metric, 28))
    style.thousands(ax.xaxis)
    if is_fraction(metric):
        style.percent(ax.yaxis)
    style.legend_outside(ax)
    return figure


@style.styled
def lines_over(
    lines: Mapping[str, Sequence[LinePoint]], x: str, metric: str, logarithmic: bool
) -> Figure:
    """Plot means and 95 % intervals of a metric over `x`, one line for each label.

    Limits follow the means, so that wide intervals, which may leave the plot, do not hide
    differences.
    """
    figure = style.new_figure(8.6, 4.2)
    ax = figure.subplots()
    colours = style.colours(lines)
    for number, (label, points) in enumerate(lines.items()):
        ax.errorbar(
            [p.x for p in points],
            [p.y.mean for p in points],
            yerr=[p.y.half_width or 0.0 for p in points],
            color=colours[label],
            label=label,
            linestyle=style.LINES[number % len(style.LINES)],
            marker="o",
            markersize=4.5,
            elinewidth=0.8,
            capsize=2,
        )
    ax.set_ylim(*_limits([p.y for points in lines.values() for p in points], 0.08))
    if logarithmic:
        ax.set_xscale("log")
        ax.set_xticks(sorted({p.x for points in lines.values() for p in points}))
        style.plain_numbers(ax.xaxis)
        ax.minorticks_off()
    ax.set(xlabel=style.wrapped(x, 60), ylabel=style.wrapped(metric, 36))
    if is_fraction(metric):
        style.percent(ax.yaxis)
    if len(lines) > 1:
        style.legend_outside(ax)
    return figure


def front(points: Sequence[Point], directions: tuple[Direction, Direction]) -> list[Point]:
    """The Pareto front of the points' means, sorted by x.

    A point is dominated if another one is at least as good in both metrics and better in one.
    """
    signs = [1.0 if direction == "max" else -1.0 for direction in directions]

    def values(point: Point) -> tuple[float, float]:
        """The two means with their signs changed such that more is better."""
        return signs[0] * point.x.mean, signs[1] * point.y.mean

    def dominated(point: Point) -> bool:
        x, y = values(point)
        others = (values(other) for other in points)
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in others)

    return sorted((p for p in points if not dominated(p)), key=lambda p: p.x.mean)


@style.styled
def pareto(
    points: Sequence[Point],
    metrics: tuple[str, str],
    directions: tuple[Direction, Direction],
    in_legend: int = len(style.PALETTE),
) -> Figure:
    """Plot configurations over two metrics, with error bars, and a line through the Pareto front.

    The first `in_legend` points and those of the front are in the legend. The axes' limits follow
    the means, so that wide error bars, which may leave the plot, do not hide differences.
    """
    figure = style.new_figure(8.6, 4.2)
    ax = figure.subplots()
    best = front(points, directions)
    ax.plot(
        [p.x.mean for p in best],
        [p.y.mean for p in best],
        color=style.MUTED,
        linewidth=1.0,
        zorder=2,
    )
    shown = [p for i, p in enumerate(points) if i < in_legend or p in best]
    colours = style.colours(p.label for p in shown)
    for point in points:
        colour = colours.get(point.label, style.FAINT)
        ax.errorbar(
            point.x.mean,
            point.y.mean,
            xerr=None if point.x.half_width is None else [point.x.half_width],
            yerr=None if point.y.half_width is None else [point.y.half_width],
            fmt="D" if point in best else "o",
            markersize=6,
            color=colour,
            elinewidth=0.8,
            alpha=0.9,
            zorder=3,
            label=point.label if point in shown else None,
        )
    for axis, limits, values, metric, direction in (
        (ax.xaxis, ax.set_xlim, [p.x for p in points], metrics[0], directions[0]),
        (ax.yaxis, ax.set_ylim, [p.y for p in points], metrics[1], directions[1]),
    ):
        limits(*_limits(values))
        better = "higher is better" if direction == "max" else "lower is better"
        axis.set_label_text(style.wrapped(f"{metric} ({better})", 36))
        if is_fraction(metric):
            style.percent(axis)
    style.legend_outside(ax)
    return figure


def _limits(values: Sequence[MeanInterval], margin: float = 0.5) -> tuple[float, float]:
    """The range of the means, extended at both ends by a part of its width."""
    low, high = min(v.mean for v in values), max(v.mean for v in values)
    spread = high - low or max((v.half_width or 0.0 for v in values), default=0.0) or abs(high) or 1
    return low - margin * spread, high + margin * spread
