"""Plot of a network's accuracy on several backends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Accuracy(NamedTuple):
    """Number of correctly classified samples among `n`."""

    correct: int
    n: int


@style.styled
def accuracy_by_backend(
    accuracy: Mapping[str, Mapping[str, Accuracy]],
    title: str = "Accuracy in float and on the chip's arithmetic",
) -> Figure:
    """Plot the test accuracy of each task, one dot per backend (`accuracy[backend][task]`).

    Whiskers are Wilson's 95 % intervals, which hold for the few samples of a slow simulator too.
    """
    colours = style.colours(accuracy)
    tasks = list(dict.fromkeys(task for found in accuracy.values() for task in found))
    figure = style.new_figure(8.2, 1.6 + 0.26 * len(tasks) * (len(accuracy) + 1))
    ax = figure.subplots()
    ends: list[float] = []
    pitch = len(accuracy) + 1
    for place, (backend, found) in enumerate(accuracy.items()):
        for task, result in found.items():
            position = tasks.index(task) * pitch + place
            fraction = result.correct / result.n
            low, high = _wilson(result)
            ends.append(low)
            ax.errorbar(
                fraction,
                position,
                xerr=[[fraction - low], [high - fraction]],
                fmt="o",
                color=colours[backend],
                markersize=6,
                elinewidth=1.2,
                capsize=3,
                label=backend if task == next(iter(found)) else None,
            )
            ax.annotate(
                f"{100 * fraction:.1f} %  (n={result.n:,})",
                (1.01, position),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
                color=style.INK,
            )
    ax.set_yticks([i * pitch + (len(accuracy) - 1) / 2 for i in range(len(tasks))], tasks)
    ax.set_ylim(len(tasks) * pitch - 1.4, -0.6)
    ax.set_xlim(max(0.0, 0.05 * math.floor(20 * min(ends, default=0.0) - 0.5)), 1.003)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    style.percent(ax.xaxis)
    ax.set_xlabel("test accuracy (whiskers: 95 % CI)")
    figure.legend(loc="outside lower left", ncols=min(len(accuracy), 5))
    style.title(figure, title)
    return figure


def _wilson(result: Accuracy, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    p, n = result.correct / result.n, result.n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at p = 0 and p = 1 an end of the interval equals p, which rounding could place outside
    return min(centre - half, p), max(centre + half, p)
