"""Plot of the 2-D events of one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: pictures of a sample, of equal duration
_PARTS = 8


@style.styled
def event_frames(events: ArrayLike, dt_ms: float, title: str = "Events of one sample") -> Figure:
    """Plot events `[T, P, H, W]` summed over up to eight parts of the sample.

    With two polarities (OFF, ON), pixels with more ON events are red, with more OFF events blue.
    """
    counts = np.asarray(events, float)
    steps, polarities = counts.shape[:2]
    values = counts[:, 1] - counts[:, 0] if polarities == 2 else counts[:, 0]
    bounds = np.unique(np.linspace(0, steps, min(_PARTS, steps) + 1).round().astype(int))
    summed = np.add.reduceat(values, bounds[:-1])
    limit = max(float(np.abs(summed).max()), 1.0)
    rows = -(-len(summed) // 4)
    figure = style.new_figure(8.6, 0.9 + 2.2 * rows)
    axes = figure.subplots(rows, 4, squeeze=False).flat
    for ax, picture, first, last in zip(axes, summed, bounds, bounds[1:], strict=False):
        ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(f"{first * dt_ms:g} to {last * dt_ms:g} ms", fontsize=8.5)
    for ax in figure.axes:
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_visible(ax.has_data())
    style.title(figure, title)
    return figure
