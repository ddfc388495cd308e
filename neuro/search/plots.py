"""Plots of a study. Functions take trials and return a matplotlib Figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

from neuro.analysis.plots.style import (
    INK,
    MUTED,
    PALETTE,
    log_ticks,
    new_figure,
    styled,
    title,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neuro.search.results import TrialRow


@styled
def history(trials: Sequence[TrialRow], objective: str, direction: str) -> Figure:
    """Plot the objective of each trial and the best value so far, with pruned and failed trials."""
    figure = new_figure(8.2, 3.8)
    ax = figure.subplots()
    complete = [t for t in trials if t.state == "complete"]
    numbers = [t.number for t in complete]
    values = np.array([t.values[0] for t in complete])
    running = np.maximum.accumulate if direction == "maximize" else np.minimum.accumulate
    ax.plot(numbers, values, "o", color=PALETTE[0], markersize=5, label="complete")
    ax.step(numbers, running(values), where="post", color=INK, linewidth=1.2, label="best so far")
    pruned = [t for t in trials if t.state == "pruned" and t.values]
    if pruned:
        ax.plot(
            [t.number for t in pruned],
            [t.values[0] for t in pruned],
            "x",
            color=MUTED,
            markersize=5,
            label="pruned: value so far",
        )
    for i, failed in enumerate(t for t in trials if t.state == "fail"):
        label = "_" if i else "failed"  # one entry in the legend
        ax.axvline(failed.number, color=PALETTE[1], linewidth=1.2, alpha=0.5, label=label)
    ax.set(xlabel="trial", ylabel=wrapped(objective, 40))
    ax.locator_params(axis="x", integer=True)
    figure.legend(loc="outside lower left", ncols=4)
    title(figure, "Trials")
    return figure


@styled
def slices(
    trials: Sequence[TrialRow],
    objectives: Sequence[str],
    logarithmic: Set[str] = frozenset(),
) -> Figure:
    """Plot each objective (rows) against each parameter (columns); later trials are darker.

    - `logarithmic`: parameters with a logarithmic axis
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    figure = new_figure(1.0 + 3.0 * len(names), 0.9 + 2.6 * len(objectives))
    grid = figure.subplots(len(objectives), len(names), squeeze=False, sharey="row")
    for row, objective in enumerate(objectives):
        for column, name in enumerate(names):
            ax = grid[row][column]
            chosen = [trial for trial in trials if name in trial.params]
            x = [trial.params[name] for trial in chosen]
            numbers = [v for v in x if isinstance(v, (int, float)) and not isinstance(v, bool)]
            numeric = len(numbers) == len(x)
            ax.scatter(
                numbers if numeric else [str(v) for v in x],
                [trial.values[row] for trial in chosen],
                c=[trial.number for trial in chosen],
                cmap="Blues",
                edgecolors=INK,
                linewidths=0.5,
                s=26,
            )
            if name in logarithmic:
                ax.set_xscale("log")
                log_ticks(ax.xaxis)
            ax.set_xlabel(wrapped(name, 32))
            if column == 0:
                ax.set_ylabel(wrapped(objective, 26))
    title(figure, "Objective by parameter (later trials are darker)")
    return figure


@styled
def importance(importances: Mapping[str, float]) -> Figure:
    """Plot the importance of each parameter, see `StudyResult.importance`."""
    ordered = sorted(importances.items(), key=lambda item: item[1], reverse=True)
    figure = new_figure(8.2, 1.4 + 0.42 * len(ordered))
    ax = figure.subplots()
    ax.barh(range(len(ordered)), [value for _, value in ordered], height=0.62, color=PALETTE[0])
    for position, (_, value) in enumerate(ordered):
        ax.text(value + 0.01, position, f"{value:.2f}", va="center", fontsize=9)
    ax.set_yticks(range(len(ordered)), [wrapped(name, 40) for name, _ in ordered])
    ax.set_ylim(len(ordered) - 0.4, -0.6)
    ax.set_xlim(0, 1.1)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("fraction of the decrease in impurity")
    title(figure, "Importance of the parameters")
    return figure


@styled
def pareto(trials: Sequence[TrialRow], front: Collection[int], objectives: Sequence[str]) -> Figure:
    """Plot each pair of objectives, with the trials of the Pareto front highlighted.

    - `front`: numbers of the trials on the front

    With two objectives, a line joins the front; with more, a panel shows a projection of it.
    """
    pairs = list(itertools.combinations(range(len(objectives)), 2))
    columns = min(3, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    size = (7.2, 4.6) if len(pairs) == 1 else (3.6 * columns, 0.9 + 2.9 * rows)
    figure = new_figure(*size)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    rest = [t for t in trials if t.number not in front]
    best = [t for t in trials if t.number in front]
    for ax, (i, j) in zip(grid, pairs, strict=False):
        ordered = sorted(best, key=lambda trial: trial.values[i])
        line = "o-" if len(objectives) == 2 else "o"
        ax.plot(*_pair(rest, i, j), "o", color=MUTED, markersize=4, alpha=0.6, label="dominated")
        ax.plot(*_pair(ordered, i, j), line, color=PALETTE[0], linewidth=1.2, label="Pareto front")
        for trial in best:
            ax.annotate(
                str(trial.number),
                (trial.values[i], trial.values[j]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
            )
        ax.set(xlabel=objectives[i], ylabel=objectives[j])
    for ax in grid[len(pairs) :]:
        ax.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    title(figure, "Objectives (numbers are trials)")
    return figure


def _pair(trials: Sequence[TrialRow], i: int, j: int) -> tuple[list[float], list[float]]:
    return [t.values[i] for t in trials], [t.values[j] for t in trials]
