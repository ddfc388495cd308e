"""Plots of a spiking network's activity: gates, spike raster, firing rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: most neurons of a layer in a raster; of larger layers, evenly spaced ones are drawn
_MAX_RASTER_NEURONS = 256


class GateTrace(NamedTuple):
    """Statistics of one layer's gates over a run."""

    steps: ArrayLike  # [K] optimizer steps
    mean: ArrayLike  # [K] mean of gamma over the layer's neurons
    open_fraction: ArrayLike  # [K] fraction of neurons with gamma > 0.5
    variance_fast: ArrayLike  # [K] mean variance of the fast compartment
    variance_slow: ArrayLike  # [K] mean variance of the slow compartment
    gamma: ArrayLike  # [N] gamma of each neuron at the end


@style.styled
def gate_statistics(
    layers: Mapping[str, GateTrace],
    phases: Sequence[tuple[str, int]] = (),
    title: str = "Gates",
) -> Figure:
    """Plot each layer's gate gamma over training and at its end, and the variances behind it.

    - `phases`: (name, first step) of each phase
    """
    colours = style.colours(layers)
    figure = style.new_figure(10.4, 6.4)
    ((ax_mean, ax_open), (ax_variance, ax_histogram)) = figure.subplots(2, 2)
    bins = np.linspace(0, 1, 26)
    for name, trace in layers.items():
        steps, colour = np.asarray(trace.steps), colours[name]
        ax_mean.plot(steps, np.asarray(trace.mean), color=colour, label=name)
        ax_open.plot(steps, np.asarray(trace.open_fraction), color=colour)
        ax_variance.plot(steps, np.asarray(trace.variance_fast), color=colour)
        ax_variance.plot(
            steps, np.asarray(trace.variance_slow), color=colour, linestyle=(0, (4, 2))
        )
        gamma = np.asarray(trace.gamma, dtype=float).ravel()
        ax_histogram.hist(
            gamma,
            bins=bins.tolist(),
            weights=np.full(len(gamma), 1 / max(len(gamma), 1)),
            histtype="step",
            linewidth=1.6,
            color=colour,
        )
    ax_mean.set(title="Mean gate", ylabel="gamma (1 = fast)", ylim=(-0.03, 1.03))
    ax_open.set(title="Fraction of open gates", ylabel="neurons with gamma > 0.5")
    ax_open.set_ylim(-0.03, 1.03)
    style.percent(ax_open.yaxis)
    ax_variance.set(title="Variance of the branches' firing", ylabel="variance", yscale="log")
    from matplotlib.lines import Line2D

    style.log_ticks(ax_variance.yaxis)

    # at the right above the panel, because the title is at the left
    ax_variance.legend(
        handles=[
            Line2D([], [], color=style.INK, label="fast"),
            Line2D([], [], color=style.INK, linestyle=(0, (4, 2)), label="slow"),
        ],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        borderaxespad=0.2,
    )
    ax_histogram.set(title="Gates at the end", xlabel="gamma (1 = fast)", ylabel="neurons")
    ax_histogram.set_xlim(0, 1)
    style.percent(ax_histogram.yaxis)
    for ax in (ax_mean, ax_open, ax_variance):
        ax.set_xlabel("optimizer step")
        style.thousands(ax.xaxis)
        style.mark_phases([ax], phases, named=False)
    handles, labels = ax_mean.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6) or 1)
    style.title(figure, title)
    return figure


@style.styled
def spike_raster(
    spikes: Mapping[str, ArrayLike], dt_ms: float, title: str = "Spikes of one sample"
) -> Figure:
    """Plot the spikes of one sample, and the layers' population rates below.

    - `spikes`: `[T, N]` for each layer; above 0 is a spike
    - `dt_ms`: time step in milliseconds; a spike is drawn at the beginning of its step
    """
    colours = style.colours(spikes)
    heights = [max(0.8, min(2.2, np.asarray(s).shape[1] / 60)) for s in spikes.values()]
    figure = style.new_figure(8.6, 1.7 + sum(heights) + 1.3)
    axes = figure.subplots(
        len(spikes) + 1, 1, sharex=True, squeeze=False, height_ratios=[*heights, 1.2]
    )[:, 0]
    end_ms = 1.0
    for ax, (name, values) in zip(axes, spikes.items(), strict=False):
        raster = np.asarray(values) > 0
        steps, neurons = raster.shape
        end_ms = max(end_ms, steps * dt_ms)
        shown = np.unique(
            np.linspace(0, neurons - 1, min(neurons, _MAX_RASTER_NEURONS)).astype(int)
        )
        times, rows = np.nonzero(raster[:, shown])
        size = np.clip(140 / len(shown), 1.4, 9)
        ax.scatter(
            times * dt_ms,
            rows,
            s=size,
            marker="|" if len(shown) <= 60 else "s",
            color=colours[name],
            linewidths=1.0 if len(shown) <= 60 else 0,
        )
        ax.set_ylim(-0.5, len(shown) - 0.5)
        ax.invert_yaxis()
        ax.set_yticks([])
        ax.grid(False)
        part = f" ({len(shown)} shown)" if len(shown) < neurons else ""
        ax.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        mean_hz = raster.mean() * 1000 / dt_ms
        ax.set_title(
            f"{neurons} neurons{part}, mean {mean_hz:.1f} Hz",
            fontsize=8.5,
            color=style.MUTED,
            fontweight="normal",
            pad=3,
        )
        rate_hz = style.boxcar(raster.mean(axis=1) * 1000 / dt_ms, max(1, round(5 / dt_ms)))
        axes[-1].plot(np.arange(steps) * dt_ms, rate_hz, color=colours[name], linewidth=1.3)
    axes[-1].set(xlabel="time (ms)", ylabel="population\nrate (Hz)", xlim=(-dt_ms / 2, end_ms))
    axes[-1].set_ylim(bottom=0)
    figure.align_ylabels(axes)
    style.title(figure, title)
    return figure


@style.styled
def firing_rates(
    rates_hz: Mapping[str, ArrayLike],
    dt_ms: float,
    silent_below_hz: float = 0.1,
    saturated_above: float = 0.9,
    title: str = "Firing rates",
) -> Figure:
    """Plot the distribution of each layer's firing rates, and its silent and saturated neurons.

    - `rates_hz`: `[N]` for each layer
    - `silent_below_hz`: a neuron with a lower rate is silent
    - `saturated_above`: a neuron that fires in a larger fraction of all steps is saturated
    """
    limit_hz = saturated_above * 1000 / dt_ms
    names = list(rates_hz)
    colours = style.colours(rates_hz)
    figure = style.new_figure(9.6, 1.75 + 0.72 * max(len(names), 1))
    ax, ax_kinds = figure.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
    rows = np.arange(len(names))
    fractions = np.zeros((len(names), 3))
    highest = max([1.0, *(float(np.max(values)) for values in rates_hz.values())])
    bins = np.linspace(0, np.sqrt(highest), 41) ** 2
    bins[-1] = highest  # the square of the root may be smaller and exclude the fastest neuron
    for row, name in enumerate(names):
        values = np.asarray(rates_hz[name], dtype=float).ravel()
        silent, saturated = values < silent_below_hz, values > limit_hz
        fractions[row] = silent.mean(), 1 - silent.mean() - saturated.mean(), saturated.mean()
        counts, _ = np.histogram(values, bins)
        heights = 0.8 * counts / max(counts.max(), 1)
        ax.stairs(
            row + 0.36 - heights,
            bins,
            baseline=row + 0.36,
            fill=True,
            color=colours[name],
            alpha=0.4,
        )
        low, median, high = np.percentile(values, [25, 50, 75])
        ax.plot([low, high], [row + 0.36] * 2, color=colours[name], linewidth=3)
        ax.plot(median, row + 0.36, "o", color="white", markeredgecolor=colours[name], markersize=6)
    ax.set(
        xlabel="rate of a neuron (Hz, square-root scale)",
        title="Spread (line: quartiles, dot: median)",
    )
    # most neurons have low rates, which a square-root scale spreads out; unlike a log it has 0
    ax.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ticks = [0.0]
    for tick in (1, 5, 10, 25, 50, 100, 200, 400, 700, 1000, 2000, 5000):
        if tick <= 1.05 * highest and tick**0.5 - ticks[-1] ** 0.5 > 0.06 * highest**0.5:
            ticks.append(tick)
    ax.set_xticks(ticks)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.45, -0.6)
    ax.set_xlim(0, 1.05 * highest)
    kinds = (("silent", "#BDBDBD"), ("active", "#9CC3DE"), ("saturated", "#D55E00"))
    left = np.zeros(len(names))
    for column, (kind, colour) in enumerate(kinds):
        part = fractions[:, column]
        ax_kinds.barh(rows, part, left=left, height=0.6, color=colour, label=kind)
        for row, fraction in enumerate(part):
            if fraction >= 0.12:  # narrower bars have no room for the number
                ax_kinds.text(
                    left[row] + fraction / 2,
                    row,
                    f"{100 * fraction:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color=style.INK,
                )
        left = left + part
    ax_kinds.set(xlim=(0, 1), xlabel="fraction of neurons", title="Silent and saturated")
    ax_kinds.grid(False)
    ax_kinds.tick_params(axis="y", length=0)
    style.percent(ax_kinds.xaxis)
    handles, labels = ax_kinds.get_legend_handles_labels()
    explained = [
        f"silent (< {silent_below_hz:g} Hz)",
        labels[1],
        f"saturated (> {limit_hz:,.0f} Hz)",
    ]
    figure.legend(handles, explained, loc="outside lower right", ncols=3)
    style.title(figure, title)
    return figure
