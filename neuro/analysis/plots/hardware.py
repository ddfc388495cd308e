"""Plots of a network on a chip: use of its cores, membrane potentials."""

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

#: cores in a row of the drawn chip
_COLUMNS = 16

#: most cores with a bar of their own; with more, there is one for the mean of each layer
_MAX_CORE_BARS = 24


class PlacedCore(NamedTuple):
    """One core's position, contents, and the used fractions of its limits."""

    place: int  # index over all chips
    layer: str
    neurons: int
    neuron_utilisation: float  # 0 to 1
    synapse_utilisation: float
    memory_utilisation: float


class MembraneTraces(NamedTuple):
    """Membrane potentials of some neurons of a layer for one sample, in float and in integers.

    Each arithmetic has a threshold in its own unit.
    """

    neurons: Sequence[int]  # [N] indices within the layer
    real: ArrayLike  # [T, N]
    integer: ArrayLike  # [T, N]
    real_spikes: ArrayLike  # [T, N]
    integer_spikes: ArrayLike  # [T, N]
    threshold: float
    integer_threshold: float


@style.styled
def core_map(
    cores: Sequence[PlacedCore],
    cores_per_chip: int = 128,
    title: str = "Cores",
) -> Figure:
    """Plot the chip's cores coloured by layer, and the used fractions of each core's limits.

    With many cores, the fractions are means over the cores of each layer.
    """
    colours = style.colours(dict.fromkeys(core.layer for core in cores))
    chips = max(math.ceil((max(core.place for core in cores) + 1) / cores_per_chip), 1)
    rows_per_chip = math.ceil(cores_per_chip / _COLUMNS)
    bars = _bars(cores)
    height = max(1.4 + 0.32 * rows_per_chip * chips, 1.75 + 0.27 * len(bars))
    figure = style.new_figure(10.4, min(height, 11.0))
    ax, ax_use = figure.subplots(1, 2, width_ratios=[1.35, 1])
    _draw_chips(ax, cores, colours, chips, cores_per_chip)
    _draw_use(ax_use, bars, colours)
    counts = {layer: sum(core.layer == layer for core in cores) for layer in colours}
    from matplotlib.patches import Patch

    figure.legend(
        handles=[
            Patch(color=colour, label=f"{layer}: {_cores(counts[layer])}")
            for layer, colour in colours.items()
        ],
        loc="outside lower left",
        ncols=min(len(colours), 6),
    )
    style.title(figure, title)
    return figure


@style.styled
def membrane_traces(
    layers: Mapping[str, MembraneTraces],
    dt_ms: float,
    title: str = "Membrane potentials in float and in integers",
) -> Figure:
    """Plot membrane potentials relative to their threshold: rows are layers, columns neurons.

    Spikes are marked above the traces, in an upper row for float and a lower one for integers.
    """
    dashes = (0, (4, 2))
    columns = max(len(traces.neurons) for traces in layers.values())
    figure = style.new_figure(1.2 + 3.1 * columns, 1.5 + 1.55 * len(layers))
    grid = figure.subplots(len(layers), columns, sharex=True, sharey="row", squeeze=False)
    for row, (name, traces) in zip(grid, layers.items(), strict=True):
        real = np.asarray(traces.real, dtype=float) / traces.threshold
        integer = np.asarray(traces.integer, dtype=float) / traces.integer_threshold
        time_ms = np.arange(len(real)) * dt_ms
        low, high = min(real.min(), integer.min(), 0.0), max(real.max(), integer.max(), 1.0)
        span = high - low
        for ax in row[len(traces.neurons) :]:
            ax.set_axis_off()
        for column, (neuron, ax) in enumerate(zip(traces.neurons, row, strict=False)):
            ax.axhline(1, color=style.MUTED, linewidth=0.9, linestyle=dashes)
            ax.plot(time_ms, real[:, column], color=style.PALETTE[0], linewidth=2.6, alpha=0.45)
            ax.plot(time_ms, integer[:, column], color=style.PALETTE[1], linewidth=1.0)
            rasters = (
                (traces.real_spikes, 0.20, style.PALETTE[0]),
                (traces.integer_spikes, 0.08, style.PALETTE[1]),
            )
            for spikes, offset, colour in rasters:
                fired = time_ms[np.asarray(spikes)[:, column] > 0]
                ax.plot(
                    fired,
                    np.full(len(fired), high + offset * span),
                    "|",
                    color=colour,
                    markersize=6,
                    markeredgewidth=1.2,
                )
            ax.set_ylim(low - 0.06 * span, high + 0.30 * span)
            ax.set_title(
                f"neuron {neuron}", fontsize=8.5, color=style.MUTED, fontweight="normal", pad=2
            )
        row[0].set_ylabel(f"{name}\nv / threshold")
    for ax in grid[-1]:
        ax.set_xlabel("time (ms)")
        ax.margins(x=0.02)
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[
            Line2D([], [], color=style.PALETTE[0], linewidth=2.6, alpha=0.45, label="float"),
            Line2D([], [], color=style.PALETTE[1], linewidth=1.0, label="integer"),
            Line2D([], [], color=style.MUTED, linewidth=0.9, linestyle=dashes, label="threshold"),
            Line2D([], [], color=style.INK, marker="|", linestyle="", markersize=6, label="spike"),
        ],
        loc="outside lower left",
        ncols=4,
    )
    style.title(figure, title)
    return figure


class _Bar(NamedTuple):
    label: str
    layer: str
    use: tuple[float, float, float]  # neurons, synapse words, memory


def _bars(cores: Sequence[PlacedCore]) -> list[_Bar]:
    """One bar per core, or per layer (mean over its cores) above `_MAX_CORE_BARS` cores."""
    if len(cores) <= _MAX_CORE_BARS:
        return [_Bar(f"{core.layer} (core {core.place})", core.layer, core[3:6]) for core in cores]
    rows = []
    for layer in dict.fromkeys(core.layer for core in cores):
        use = np.array([core[3:6] for core in cores if core.layer == layer])
        neurons, synapses, memory = use.mean(0)
        mean = "mean of " if len(use) > 1 else ""
        label = f"{layer} ({mean}{_cores(len(use))})"
        rows.append(_Bar(label, layer, (neurons, synapses, memory)))
    return rows


def _draw_chips(
    ax: Axes, cores: Sequence[PlacedCore], colours: Mapping[str, str], chips: int, per_chip: int
) -> None:
    """Draw a grid of cores per chip; a core is filled to the largest used fraction of a limit."""
    from matplotlib.patches import Rectangle

    used = {core.place: core for core in cores}
    rows = math.ceil(per_chip / _COLUMNS)
    for chip in range(chips):
        top = chip * (rows + 1)
        for cell in range(per_chip):
            x, y = cell % _COLUMNS, top + cell // _COLUMNS
            core = used.get(chip * per_chip + cell)
            ax.add_patch(
                Rectangle(
                    (x + 0.06, y + 0.06),
                    0.88,
                    0.88,
                    facecolor="#F4F4F4",
                    edgecolor=style.FAINT,
                    linewidth=0.7,
                )
            )
            if core is None:
                continue
            colour, used_fraction = colours[core.layer], max(core[3:6])
            ax.add_patch(
                Rectangle(
                    (x + 0.06, y + 0.06), 0.88, 0.88, facecolor=colour, alpha=0.3, linewidth=0
                )
            )
            height = 0.88 * used_fraction
            ax.add_patch(
                Rectangle(
                    (x + 0.06, y + 0.94 - height), 0.88, height, facecolor=colour, linewidth=0
                )
            )
        if chips > 1:
            ax.text(0.06, top - 0.12, f"chip {chip + 1}", fontsize=8.5, color=style.MUTED)
    ax.set(xlim=(0, _COLUMNS), aspect="equal")
    ax.set_ylim(chips * (rows + 1) - 1, -0.6 if chips > 1 else 0)
    ax.set_axis_off()
    ax.set_anchor("N")
    ax.set_title(f"{len(cores)} of {chips * per_chip} cores, filled to their tightest limit")


def _draw_use(ax: Axes, bars: Sequence[_Bar], colours: Mapping[str, str]) -> None:
    """Draw three thin bars per row: used fractions of compartments, synapses and memory."""
    kinds = ("compartments", 1.0), ("synapses", 0.6), ("memory", 0.3)
    for row, bar in enumerate(bars):
        for place, (_, alpha) in enumerate(kinds):
            ax.barh(
                row + 0.25 * (place - 1),
                bar.use[place],
                height=0.23,
                alpha=alpha,
                color=colours[bar.layer],
            )
    ax.set_yticks(range(len(bars)), [bar.label for bar in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    style.percent(ax.xaxis)
    ax.set_xlabel("used fraction of the core's limit")
    from matplotlib.patches import Patch

    ax.legend(
        handles=[Patch(facecolor=style.INK, alpha=alpha, label=kind) for kind, alpha in kinds],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        borderaxespad=0.2,
    )


def _cores(number: int) -> str:
    return "1 core" if number == 1 else f"{number:,} cores"
