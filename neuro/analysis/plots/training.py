"""Plots of a run's training: metrics, accuracy matrix, learning rate.

As in all modules of this package, functions take arrays and return a matplotlib Figure, which
`style.save` writes; none uses pyplot, a display or a file. Fractions are passed as 0 to 1 and
shown in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from neuro.analysis.metrics import is_fraction
from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: a training loss with values this many times those of the validation loss has its own panel
_APART = 10

#: a curve with more points is drawn smoothed, with the raw values behind it
_SMOOTH_ABOVE = 120


@style.styled
def training_curves(
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    phases: Sequence[tuple[str, int]] = (),
    title: str = "Training",
) -> Figure:
    """Plot metrics over optimizer steps, one panel for each kind of metric.

    - `series`: (steps, values) by metric name; the last part (`loss` in `val/fast/loss`) is the
      kind and chooses the panel
    - `phases`: (name, number of updates before it), marked by lines; curves are not joined from one
      phase to the next, which may have other tasks

    A training loss much larger than the validation loss has a panel of its own: the terms of a
    local rule have another scale than the loss of the decisions.
    """
    panels: dict[str, dict[str, tuple[Sequence[int], Sequence[float]]]] = {}
    for name, points in series.items():
        head, _, kind = name.rpartition("/")
        panels.setdefault(kind, {})[head or kind] = points
    if apart := _of_another_scale(panels.get("loss", {})):
        losses = panels.pop("loss")
        panels["training loss"] = {label: losses.pop(label) for label in apart}
        panels["validation loss"] = losses
    places = {"training loss": 0, "validation loss": 1, "loss": 1, "accuracy": 2, "mae": 2}
    order = sorted(panels, key=lambda kind: (places.get(kind, 3), kind))
    starts = [first for _, first in phases if first > 0]
    colours = style.colours(dict.fromkeys(label for panel in panels.values() for label in panel))
    figure = style.new_figure(8.6, 0.7 + 2.6 * max(len(order), 1))
    axes = figure.subplots(max(len(order), 1), 1, sharex=True, squeeze=False)[:, 0]
    for ax, kind in zip(axes, order, strict=False):
        for label, (steps, values) in panels[kind].items():
            x, y = np.asarray(steps), np.asarray(values, dtype=float)
            _curve(ax, x, y, label, colours[label], starts)
        ax.set_ylabel(_heading(kind))
        if is_fraction(kind):
            style.percent(ax.yaxis)
            _fraction_limits(ax, [points[1] for points in panels[kind].values()])
        elif kind == "lr":
            style.plain_numbers(ax.yaxis)
            ax.set_ylim(bottom=0)
        elif kind.endswith("loss"):
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        if kind != "lr" or len(panels[kind]) > 1:
            style.legend_beside(ax)
    style.mark_phases(list(axes), phases)
    axes[-1].set_xlabel("optimizer step")
    style.thousands(axes[-1].xaxis)
    style.title(figure, title)
    return figure


@style.styled
def accuracy_matrix(
    matrix: ArrayLike,
    tasks: Sequence[str],
    phases: Sequence[str] | None = None,
    title: str = "",
    score: str = "accuracy",
) -> Figure:
    """Plot a heat map of a test metric: row i after phase i, column j on task j.

    - `matrix`: `[phases, tasks]`, NaN where a task was not tested
    - `score`: the kind of metric; the colours of a fraction go from 0 to 1, those of another metric
      from 0 to its largest value
    """
    values = np.asarray(matrix, dtype=float)
    fraction = is_fraction(score)
    top = 1.0 if fraction else float(np.nanmax(values, initial=0.0)) or 1.0
    rows, columns = values.shape
    names = list(phases) if phases is not None else list(tasks)[:rows]
    figure = style.new_figure(3.0 + 0.95 * columns, 1.75 + 0.62 * rows)
    ax = figure.subplots()
    ax.grid(False)
    from matplotlib.colors import LinearSegmentedColormap

    blues = LinearSegmentedColormap.from_list("accuracy", ["#F4F7FA", "#9CC3DE", "#0B5E91"])
    shades = blues.with_extremes(bad="#EFEFEF")
    image = ax.pcolormesh(
        np.ma.masked_invalid(values), vmin=0, vmax=top, cmap=shades, edgecolors="white", linewidth=2
    )
    ax.set_facecolor("#EFEFEF")
    ax.invert_yaxis()
    for i in range(rows):
        for j in range(columns):
            value = values[i, j]
            number = f"{100 * value:.1f} %" if fraction else f"{value:.3g}"
            text = "-" if np.isnan(value) else number
            light = not np.isnan(value) and value > 0.62 * top
            ax.text(
                j + 0.5,
                i + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=10 if columns <= 8 else 7.5,
                color="white" if light else (style.MUTED if np.isnan(value) else style.INK),
            )
    ax.set_xticks(
        np.arange(columns) + 0.5,
        list(tasks),
        rotation=0 if _short(tasks) else 30,
        ha="center" if _short(tasks) else "right",
    )
    ax.set_yticks(np.arange(rows) + 0.5, [f"after {name}" for name in names])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("task tested")
    bar = figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03, ticks=[0, top / 2, top])
    bar.outline.set_visible(False)
    if fraction:
        style.percent(bar.ax.yaxis)
    bar.ax.tick_params(length=0)
    bar.set_label(f"test {_heading(score)}")
    heading = _heading(score).capitalize()
    style.title(figure, title or f"{heading} on each task after each phase")
    return figure


@style.styled
def schedule(
    steps: ArrayLike,
    lr: ArrayLike,
    phases: Sequence[tuple[str, int]] = (),
    title: str = "Learning rate",
) -> Figure:
    """Plot the learning rate of each optimizer step; `steps` and `lr` are `[K]`."""
    figure = style.new_figure(8.2, 3.2)
    ax = figure.subplots()
    x, y, colour = np.asarray(steps), np.asarray(lr), style.PALETTE[0]
    ax.plot(x, y, color=colour)
    ax.fill_between(x, y, color=colour, alpha=0.08, linewidth=0)
    ax.set(xlabel="optimizer step", ylabel="learning rate")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    style.plain_numbers(ax.yaxis)
    style.thousands(ax.xaxis)
    style.mark_phases([ax], phases)
    style.title(figure, title)
    return figure


def _of_another_scale(losses: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> list[str]:
    """Labels of training losses so large that they would flatten the validation losses."""

    def size(values: Sequence[float]) -> float:
        """The 95th percentile of the magnitudes; NaN without a finite value."""
        found = np.abs(np.asarray(values, dtype=float))
        found = found[np.isfinite(found)]
        return float(np.percentile(found, 95)) if len(found) else np.nan

    sizes = {label: size(values) for label, (_, values) in losses.items()}
    others = [number for label, number in sizes.items() if label != "train"]
    return [
        label
        for label, number in sizes.items()
        if label == "train" and others and number > _APART * np.nanmax(others)
    ]


def _curve(
    ax: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    label: str,
    colour: str,
    starts: Sequence[int] = (),
) -> None:
    """Draw a line, smoothed if it has many points and with markers if it has few.

    - `starts`: numbers of updates after which a phase starts, where the line is interrupted
    """
    marker = "o" if len(values) <= 30 else None
    for part in np.split(np.arange(len(steps)), np.searchsorted(steps, starts, side="right")):
        if not len(part):
            continue
        x, y = steps[part], values[part]
        if len(values) > _SMOOTH_ABOVE:
            ax.plot(x, y, color=colour, alpha=0.22, linewidth=0.8)
            y = style.boxcar(y, len(values) // 40)
        ax.plot(x, y, color=colour, label=label, marker=marker, markersize=3.5)
        label = "_"  # one entry in the legend


def _fraction_limits(ax: Axes, values: Sequence[Sequence[float]]) -> None:
    """Set the limits: up to 100 %, and from just below the lowest value if that is above 50 %."""
    known = np.concatenate([np.asarray(v, dtype=float) for v in values])
    known = known[np.isfinite(known)]
    lowest = float(known.min()) if len(known) else 0.0
    bottom = min(0.0, lowest) if lowest < 0.5 else 0.1 * np.floor(10 * lowest - 0.2)
    ax.set_ylim(bottom, 1.01)


def _heading(kind: str) -> str:
    names = {
        "lr": "learning rate",
        "samples_per_s": "samples/s",
        "tokens_per_s": "tokens/s",
        "mae": "mean absolute error",
    }
    return names.get(kind, kind.replace("_", " "))


def _short(names: Sequence[str]) -> bool:
    return all(len(name) <= 9 for name in names)
