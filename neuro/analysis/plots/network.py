"""Plot of a network's layers and of the weight matrices between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: weight matrices in a row
_COLUMNS = 4


class PlottedLayer(NamedTuple):
    """A layer's label and size."""

    kind: str
    nodes: int


class PlottedConnection(NamedTuple):
    """Weights from layer `source` to layer `target`."""

    source: str
    target: str
    weight: ArrayLike  # [nodes of target, nodes of source]; NaN where there is no connection

    @property
    def density(self) -> float:
        """Fraction of node pairs that are connected."""
        return float(np.isfinite(np.asarray(self.weight)).mean())


@style.styled
def network(
    layers: Mapping[str, PlottedLayer],
    connections: Sequence[PlottedConnection],
    title: str = "Network",
) -> Figure:
    """Plot layers from left to right with the connections between them, and each weight matrix.

    - `layers`: in the order of evaluation

    Arrows are labelled with the connection's density. Those below the layers are feedback or skip
    connections.
    """
    rows = -(-len(connections) // _COLUMNS)
    figure = style.new_figure(max(7.0, 2.1 * len(layers)), 2.6 + 2.7 * rows)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.6, 2.7 * rows])
    above, below = parts.ravel()
    _draw_layers(above.subplots(), layers, connections)
    bound = max(float(np.nanmax(np.abs(np.asarray(c.weight)), initial=0)) for c in connections)
    axes = np.atleast_1d(below.subplots(rows, _COLUMNS, squeeze=False)).ravel()
    image = None
    for ax, connection in zip(axes, connections, strict=False):
        image = _draw_matrix(ax, connection, bound or 1.0)
    for ax in axes[len(connections) :]:
        ax.set_axis_off()
    if image is not None:
        below.colorbar(image, ax=axes.tolist(), label="weight", shrink=0.8, aspect=30)
    style.title(figure, title)
    return figure


def _draw_layers(
    ax: Axes, layers: Mapping[str, PlottedLayer], connections: Sequence[PlottedConnection]
) -> None:
    from matplotlib.patches import FancyBboxPatch

    place = {name: i for i, name in enumerate(layers)}
    ax.set(xlim=(-0.55, len(layers) - 0.45), ylim=(-1.15, 0.75))
    ax.set_axis_off()
    for name, layer in layers.items():
        box = FancyBboxPatch(
            (place[name] - 0.3, -0.26),
            0.6,
            0.52,
            boxstyle="round,pad=0.02",
            facecolor="white",
            edgecolor=style.PALETTE[0],
            linewidth=1.3,
            zorder=3,
        )
        ax.add_patch(box)
        ax.text(place[name], 0.1, name, ha="center", va="center", weight="bold", zorder=4)
        text = f"{layer.kind}\n{layer.nodes} nodes"
        ax.text(
            place[name],
            -0.11,
            text,
            ha="center",
            va="center",
            fontsize=8.5,
            color=style.MUTED,
            zorder=4,
        )
    for connection in connections:
        _draw_arrow(ax, place[connection.source], place[connection.target], connection.density)


def _draw_arrow(ax: Axes, start: int, end: int, density: float) -> None:
    """Draw a straight arrow to the next layer, a bow to any other, and a loop to itself."""
    from matplotlib.patches import FancyArrowPatch

    label = f"{100 * density:.3g} %"
    if end == start + 1:
        a, b, bow, text = (start + 0.32, 0.0), (end - 0.32, 0.0), 0.0, (start + 0.5, 0.1)
    elif end == start:
        a, b, bow, text = (start + 0.14, 0.28), (start - 0.14, 0.28), 1.6, (start, 0.66)
    else:
        side = 0.06 if end > start else -0.06  # keeps the two directions apart
        a, b = (start + side, -0.28), (end - side, -0.28)
        bow = 0.28 if end > start else -0.28
        text = ((start + end) / 2, -0.34 - 0.17 * abs(end - start))
    colour = style.PALETTE[1] if end <= start else style.INK
    arrow = FancyArrowPatch(
        a,
        b,
        arrowstyle="-|>",
        mutation_scale=11,
        color=colour,
        linewidth=1.2,
        connectionstyle=f"arc3,rad={bow}",
        zorder=2,
    )
    ax.add_patch(arrow)
    paper = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    ax.text(*text, label, ha="center", va="center", fontsize=8, color=colour, bbox=paper, zorder=5)


def _draw_matrix(ax: Axes, connection: PlottedConnection, bound: float) -> object:
    import matplotlib

    weight = np.ma.masked_invalid(np.asarray(connection.weight, dtype=float))
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=style.FAINT)
    image = ax.imshow(
        weight, cmap=colours, vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest"
    )
    ax.grid(False)
    ax.set_title(f"{connection.source} to {connection.target}")
    ax.set(xlabel=f"from {connection.source}", ylabel=f"to {connection.target}")
    return image
