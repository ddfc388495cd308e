"""Plot of a learning-rate range test (Smith 2017, arXiv:1506.01186): the loss over the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style.styled
def range_test(
    rates: ArrayLike, losses: ArrayLike, smoothed: ArrayLike, suggestion: float | None = None
) -> Figure:
    """Plot the loss at each learning rate, its running mean, and the suggested rate.

    - `rates`, `losses`, `smoothed`: `[K]`
    - `suggestion`: drawn as a line; a band from a tenth of it is labelled conservative, one up to
      twice of it aggressive
    """
    figure = style.new_figure(8.2, 3.6)
    ax = figure.subplots()
    x, loss, curve = (np.asarray(values, float) for values in (rates, losses, smoothed))
    colour, conservative, aggressive = style.PALETTE[0], style.PALETTE[2], style.PALETTE[1]
    ax.plot(x, loss, color=colour, alpha=0.3, linewidth=0.9, label="each update")
    ax.plot(x, curve, color=colour, label="running mean")
    if suggestion is not None:
        for low, high, fill, label in (
            (suggestion / 10, suggestion, conservative, "conservative"),
            (suggestion, 2 * suggestion, aggressive, "aggressive"),
        ):
            ax.axvspan(low, high, color=fill, alpha=0.14, linewidth=0, label=label)
        ax.axvline(suggestion, color=aggressive, label=f"suggested: {suggestion:.3g}")
    if curve.size:  # limits from the first half: the loss may diverge at the end
        least, start = loss.min(), curve[: curve.size // 2 + 1].max()
        room = max(start - least, 0.02 * abs(start), 1e-12)
        ax.set_ylim(least - 0.1 * room, start + 0.5 * room)
    ax.set_xscale("log")
    ax.set(xlabel="learning rate", ylabel="loss")
    ax.margins(x=0.01)
    style.plain_numbers(ax.yaxis)
    style.legend_beside(ax)
    style.title(figure, "Learning-rate range test")
    return figure
