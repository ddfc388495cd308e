"""Plots of a run: arrays in, a matplotlib Figure out.

No function touches pyplot, a display or a file; `save` writes a figure. Matplotlib is imported at
the first plot. Fractions (0 to 1) come in and percent is shown. The palette is Okabe and Ito's,
which people with any colour vision can tell apart (Okabe & Ito 2008, "Color Universal Design").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from neuro.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

F = TypeVar("F", bound=Callable[..., Any])

#: blue, vermilion, green, orange, purple, sky, brown, black
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#B4659A", "#56B4E9", "#7A5C3E", "#222222",
)  # fmt: skip
_INK, _MUTED, _FAINT = "#222222", "#6B6B6B", "#E3E3E3"

#: more neurons than this are thinned out in a raster
_RASTER_NEURONS = 256

#: longer training curves are drawn smoothed over their raw values
_SMOOTH_ABOVE = 120


class GateTrace(NamedTuple):
    """What one layer's gates did over the run."""

    steps: ArrayLike  # [K] optimizer steps
    mean: ArrayLike  # [K] mean of gamma over the layer's neurons
    open_fraction: ArrayLike  # [K] fraction of neurons with gamma > 0.5
    variance_fast: ArrayLike  # [K] mean variance of the fast compartment
    variance_slow: ArrayLike  # [K] mean variance of the slow compartment
    gamma: ArrayLike  # [N] gamma of each neuron at the end


class Row(NamedTuple):
    """One system in a comparison; `low` and `high` bound its confidence interval."""

    label: str
    mean: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    highlight: bool = False


def style() -> dict[str, Any]:
    """The matplotlib settings that all plots share."""
    from cycler import cycler

    return {
        "axes.axisbelow": True,
        "axes.edgecolor": _MUTED,
        "axes.grid": True,
        "axes.labelcolor": _INK,
        "axes.labelsize": 10,
        "axes.linewidth": 0.8,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlecolor": _INK,
        "figure.facecolor": "white",
        "figure.titlesize": 13,
        "figure.titleweight": "bold",
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9.5,
        "grid.color": _FAINT,
        "grid.linewidth": 0.7,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "text.color": _INK,
        "xtick.color": _MUTED,
        "xtick.labelcolor": _INK,
        "xtick.labelsize": 9,
        "ytick.color": _MUTED,
        "ytick.labelcolor": _INK,
        "ytick.labelsize": 9,
    }


def _styled(plot: F) -> F:
    """Draw in our style without leaving a trace in matplotlib's global settings."""

    @functools.wraps(plot)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(style()):
            return plot(*args, **kwargs)

    return drawn  # type: ignore[return-value]


def save(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure (.png, .pdf or .svg); a reader never sees half a file."""
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=path.suffix.lstrip(".") or "png")
    return path


@_styled
def training_curves(
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    phases: Sequence[tuple[str, int]] = (),
    title: str = "Training",
) -> Figure:
    """Metrics over optimizer steps, one panel for each kind of metric.

    `series` maps a metric's name to (steps, values); its last part (`loss` of `val/fast/loss`)
    chooses the panel. `phases` are (name, first step) and are marked by lines.
    """
    panels: dict[str, dict[str, tuple[Sequence[int], Sequence[float]]]] = {}
    for name, points in series.items():
        head, _, kind = name.rpartition("/")
        panels.setdefault(kind, {})[head or kind] = points
    order = sorted(panels, key=lambda kind: ({"loss": 0, "accuracy": 1}.get(kind, 2), kind))
    colours = _colours(dict.fromkeys(label for panel in panels.values() for label in panel))
    figure = _figure(8.6, 0.7 + 2.6 * max(len(order), 1))
    axes = figure.subplots(max(len(order), 1), 1, sharex=True, squeeze=False)[:, 0]
    for ax, kind in zip(axes, order, strict=False):
        for label, (steps, values) in panels[kind].items():
            _curve(ax, np.asarray(steps), np.asarray(values, dtype=float), label, colours[label])
        ax.set_ylabel(_heading(kind))
        if _is_fraction(kind):
            _percent(ax.yaxis)
            _fraction_limits(ax, [points[1] for points in panels[kind].values()])
        elif kind == "lr":
            _plain_numbers(ax.yaxis)
            ax.set_ylim(bottom=0)
        elif kind == "loss":
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        if kind != "lr" or len(panels[kind]) > 1:
            _legend_beside(ax)
    _mark_phases(list(axes), phases)
    axes[-1].set_xlabel("optimizer step")
    _thousands(axes[-1].xaxis)
    _title(figure, title)
    return figure


@_styled
def accuracy_matrix(
    matrix: ArrayLike,
    tasks: Sequence[str],
    phases: Sequence[str] | None = None,
    title: str = "Accuracy on each task after each phase",
) -> Figure:
    """Test accuracy as a heat map: row i after phase i, column j on task j; NaN is not measured."""
    values = np.asarray(matrix, dtype=float)
    rows, columns = values.shape
    names = list(phases) if phases is not None else list(tasks)[:rows]
    figure = _figure(3.0 + 0.95 * columns, 1.75 + 0.62 * rows)
    ax = figure.subplots()
    ax.grid(False)
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("accuracy", ["#F4F7FA", "#9CC3DE", "#0B5E91"])
    shades.set_bad("#EFEFEF")
    image = ax.pcolormesh(
        np.ma.masked_invalid(values), vmin=0, vmax=1, cmap=shades, edgecolors="white", linewidth=2
    )
    ax.set_facecolor("#EFEFEF")
    ax.invert_yaxis()
    for i in range(rows):
        for j in range(columns):
            value = values[i, j]
            text = "-" if np.isnan(value) else f"{100 * value:.1f} %"
            light = not np.isnan(value) and value > 0.62
            ax.text(
                j + 0.5, i + 0.5, text, ha="center", va="center",
                fontsize=10 if columns <= 8 else 7.5,
                color="white" if light else (_MUTED if np.isnan(value) else _INK),
            )  # fmt: skip
    ax.set_xticks(np.arange(columns) + 0.5, list(tasks), rotation=0 if _short(tasks) else 30,
                  ha="center" if _short(tasks) else "right")  # fmt: skip
    ax.set_yticks(np.arange(rows) + 0.5, [f"after {name}" for name in names])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("task tested")
    bar = figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)  # type: ignore[operator]
    _percent(bar.ax.yaxis)
    bar.ax.tick_params(length=0)
    bar.set_label("test accuracy")
    _title(figure, title)
    return figure


@_styled
def gate_statistics(
    layers: Mapping[str, GateTrace],
    phases: Sequence[tuple[str, int]] = (),
    title: str = "Gates",
) -> Figure:
    """Gamma of each layer over time and at the end, with the variances that it is made of."""
    colours = _colours(layers)
    figure = _figure(10.4, 6.4)
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
            gamma, bins=bins.tolist(), weights=np.full(len(gamma), 1 / max(len(gamma), 1)),
            histtype="step", linewidth=1.6, color=colour,
        )  # fmt: skip
    ax_mean.set(title="Mean gate", ylabel="gamma (1 = fast)", ylim=(-0.03, 1.03))
    ax_open.set(title="Neurons whose gate is open", ylabel="neurons with gamma > 0.5")
    ax_open.set_ylim(-0.03, 1.03)
    _percent(ax_open.yaxis)
    ax_variance.set(title="Variance of the branches' firing", ylabel="variance", yscale="log")
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    ax_variance.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    ax_variance.yaxis.set_minor_formatter(NullFormatter())
    _plain_numbers(ax_variance.yaxis)

    # two entries above the panel's right end: the title has the left one
    ax_variance.legend(
        handles=[
            Line2D([], [], color=_INK, label="fast"),
            Line2D([], [], color=_INK, linestyle=(0, (4, 2)), label="slow"),
        ],
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2,
    )  # fmt: skip
    ax_histogram.set(title="Gates at the end", xlabel="gamma (1 = fast)", ylabel="neurons")
    ax_histogram.set_xlim(0, 1)
    _percent(ax_histogram.yaxis)
    for ax in (ax_mean, ax_open, ax_variance):
        ax.set_xlabel("optimizer step")
        _thousands(ax.xaxis)
        _mark_phases([ax], phases, named=False)
    handles, labels = ax_mean.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6) or 1)
    _title(figure, title)
    return figure


@_styled
def spike_raster(
    spikes: Mapping[str, ArrayLike], dt_ms: float, title: str = "Spikes of one sample"
) -> Figure:
    """Spikes of one sample, `[T, N]` per layer, with the layers' population rates below."""
    colours = _colours(spikes)
    heights = [max(0.8, min(2.2, np.asarray(s).shape[1] / 60)) for s in spikes.values()]
    figure = _figure(8.6, 1.7 + sum(heights) + 1.3)
    axes = figure.subplots(
        len(spikes) + 1, 1, sharex=True, squeeze=False, height_ratios=[*heights, 1.2]
    )[:, 0]
    end_ms = 1.0
    for ax, (name, values) in zip(axes, spikes.items(), strict=False):
        raster = np.asarray(values) > 0
        steps, neurons = raster.shape
        end_ms = max(end_ms, steps * dt_ms)
        shown = np.unique(np.linspace(0, neurons - 1, min(neurons, _RASTER_NEURONS)).astype(int))
        times, rows = np.nonzero(raster[:, shown])
        size = np.clip(140 / len(shown), 1.4, 9)
        ax.scatter(times * dt_ms, rows, s=size, marker="|" if len(shown) <= 60 else "s",
                   color=colours[name], linewidths=1.0 if len(shown) <= 60 else 0)  # fmt: skip
        ax.set_ylim(-0.5, len(shown) - 0.5)
        ax.invert_yaxis()
        ax.set_yticks([])
        ax.grid(False)
        part = f" ({len(shown)} shown)" if len(shown) < neurons else ""
        ax.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        mean_hz = raster.mean() * 1000 / dt_ms
        ax.set_title(f"{neurons} neurons{part}, mean {mean_hz:.1f} Hz", fontsize=8.5, color=_MUTED,
                     fontweight="normal", pad=3)  # fmt: skip
        rate_hz = _boxcar(raster.mean(axis=1) * 1000 / dt_ms, max(1, round(5 / dt_ms)))
        axes[-1].plot(np.arange(steps) * dt_ms, rate_hz, color=colours[name], linewidth=1.3)
    axes[-1].set(xlabel="time (ms)", ylabel="population\nrate (Hz)", xlim=(0, end_ms))
    axes[-1].set_ylim(bottom=0)
    figure.align_ylabels(axes)
    _title(figure, title)
    return figure


@_styled
def firing_rates(
    rates_hz: Mapping[str, ArrayLike],
    dt_ms: float,
    silent_below_hz: float = 0.1,
    saturated_above: float = 0.9,
    title: str = "Firing rates",
) -> Figure:
    """How the rates of each layer's neurons (`[N]`, in Hz) spread, and who is silent or saturated.

    A neuron is saturated when it fires in more than `saturated_above` of all steps.
    """
    limit_hz = saturated_above * 1000 / dt_ms
    names = list(rates_hz)
    colours = _colours(rates_hz)
    figure = _figure(9.6, 1.75 + 0.72 * max(len(names), 1))
    ax, ax_share = figure.subplots(1, 2, sharey=True, width_ratios=[1.7, 1])
    rows = np.arange(len(names))
    shares = np.zeros((len(names), 3))
    highest = max([1.0, *(float(np.max(values)) for values in rates_hz.values())])
    bins = np.linspace(0, np.sqrt(highest), 41) ** 2
    bins[-1] = highest  # exactly, so that the fastest neuron is inside
    for row, name in enumerate(names):
        values = np.asarray(rates_hz[name], dtype=float).ravel()
        silent, saturated = values < silent_below_hz, values > limit_hz
        shares[row] = silent.mean(), 1 - silent.mean() - saturated.mean(), saturated.mean()
        counts, _ = np.histogram(values, bins)
        heights = 0.8 * counts / max(counts.max(), 1)
        ax.stairs(row + 0.36 - heights, bins, baseline=row + 0.36, fill=True,
                  color=colours[name], alpha=0.4)  # fmt: skip
        low, median, high = np.percentile(values, [25, 50, 75])
        ax.plot([low, high], [row + 0.36] * 2, color=colours[name], linewidth=3)
        ax.plot(median, row + 0.36, "o", color="white", markeredgecolor=colours[name], markersize=6)
    ax.set(xlabel="rate of a neuron (Hz, square-root scale)",
           title="Spread (line: quartiles, dot: median)")  # fmt: skip
    # square roots spread the low rates, where most neurons are, and still have a zero
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
        part = shares[:, column]
        ax_share.barh(rows, part, left=left, height=0.6, color=colour, label=kind)
        for row, share in enumerate(part):
            if share >= 0.12:
                ax_share.text(left[row] + share / 2, row, f"{100 * share:.0f} %", ha="center",
                              va="center", fontsize=8.5, color=_INK)  # fmt: skip
        left = left + part
    ax_share.set(xlim=(0, 1), xlabel="share of neurons", title="Silent and saturated")
    ax_share.grid(False)
    ax_share.tick_params(axis="y", length=0)
    _percent(ax_share.xaxis)
    handles, labels = ax_share.get_legend_handles_labels()
    explained = [
        f"silent (< {silent_below_hz:g} Hz)", labels[1], f"saturated (> {limit_hz:,.0f} Hz)",
    ]  # fmt: skip
    figure.legend(handles, explained, loc="outside lower right", ncols=3)
    _title(figure, title)
    return figure


@_styled
def comparison_bars(
    rows: Sequence[Row],
    metric: str = "test accuracy",
    percent: bool = True,
    level: float = 0.95,
    title: str = "Comparison",
) -> Figure:
    """Systems as horizontal bars from zero, with confidence intervals and the numbers."""
    figure = _figure(8.2, 1.5 + 0.42 * max(len(rows), 1))
    ax = figure.subplots()
    positions = np.arange(len(rows))
    means = np.array([row.mean for row in rows])
    any_highlight = any(row.highlight for row in rows)
    colours = [PALETTE[0] if row.highlight or not any_highlight else "#A9B8C4" for row in rows]
    ax.barh(positions, means, height=0.62, color=colours)
    ends = means.copy()
    for position, row in enumerate(rows):
        if row.low is not None and row.high is not None:
            error = [[row.mean - row.low], [row.high - row.mean]]
            ax.errorbar(row.mean, position, xerr=error, fmt="none", ecolor=_INK, elinewidth=1.2,
                        capsize=3, capthick=1.2)  # fmt: skip
            ends[position] = row.high
    span = max(float(ends.max(initial=0.0)), 1e-12) - min(0.0, float(means.min(initial=0.0)))
    for position, row in enumerate(rows):
        ax.text(max(ends[position], 0) + 0.015 * span, position, _value_text(row, percent),
                va="center", fontsize=9)  # fmt: skip
    ax.set_yticks(positions, [row.label for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    lowest = min([0.0, *(row.mean if row.low is None else row.low for row in rows)])
    ax.set_xlim(1.1 * lowest, max(ends.max(initial=0.0), 0.0) + 0.32 * span)  # room for numbers
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    if percent and lowest == 0.0:
        ax.set_xticks(np.arange(0, 1.01, 0.2 if ends.max(initial=0.0) > 0.5 else 0.1).tolist())
        ax.set_xlim(0, max(ends.max(initial=0.0), 0.0) + 0.32 * span)
    if percent:
        _percent(ax.xaxis)
    shown = any(row.low is not None for row in rows)
    ax.set_xlabel(f"{metric} (whiskers: {100 * level:g} % CI of the mean)" if shown else metric)
    _title(figure, title)
    return figure


@_styled
def schedule(
    steps: ArrayLike,
    lr: ArrayLike,
    phases: Sequence[tuple[str, int]] = (),
    title: str = "Learning rate",
) -> Figure:
    """The learning rate that each optimizer step will use."""
    figure = _figure(8.2, 3.2)
    ax = figure.subplots()
    ax.plot(np.asarray(steps), np.asarray(lr), color=PALETTE[0])
    ax.fill_between(np.asarray(steps), np.asarray(lr), color=PALETTE[0], alpha=0.08, linewidth=0)
    ax.set(xlabel="optimizer step", ylabel="learning rate")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    _plain_numbers(ax.yaxis)
    _thousands(ax.xaxis)
    _mark_phases([ax], phases)
    _title(figure, title)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left")


def _colours(names: Any) -> dict[str, str]:
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _curve(ax: Axes, steps: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    """A line; a long noisy one is drawn smoothed over its raw values, a short one with dots."""
    if len(values) > _SMOOTH_ABOVE:
        ax.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
        ax.plot(steps, _boxcar(values, len(values) // 40), color=colour, label=label)
    else:
        few = len(values) <= 30
        ax.plot(
            steps, values, color=colour, label=label, marker="o" if few else None, markersize=3.5
        )


def _boxcar(values: np.ndarray, width: int) -> np.ndarray:
    """A centred moving average that passes over NaN and shrinks at the ends."""
    if width <= 1:
        return values
    known = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mark_phases(
    axes: Sequence[Axes], phases: Sequence[tuple[str, int]], named: bool = True
) -> None:
    """A thin line where each phase but the first begins; names above the uppermost panel."""
    for name, first in phases:
        for ax in axes:
            if first > 0:
                ax.axvline(first, color=_MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if named:
            start = max(first, axes[0].get_xlim()[0])
            axes[0].annotate(name, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, 3),
                             textcoords="offset points", fontsize=9, color=_MUTED)  # fmt: skip


def _legend_beside(ax: Axes) -> None:
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def _plain_numbers(axis: Any) -> None:
    """0.0002 at the tick itself, no factor of ten in a corner."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))


def _fraction_limits(ax: Axes, values: Sequence[Sequence[float]]) -> None:
    """Zoom in when all values lie high, but never hide where 100 % is."""
    known = np.concatenate([np.asarray(v, dtype=float) for v in values])
    known = known[np.isfinite(known)]
    lowest = float(known.min()) if len(known) else 0.0
    ax.set_ylim(0.0 if lowest < 0.5 else 0.1 * np.floor(10 * lowest - 0.2), 1.01)


def _is_fraction(kind: str) -> bool:
    return kind in ("accuracy", "acc") or kind.endswith(("_accuracy", "_fraction", "_share"))


def _heading(kind: str) -> str:
    return {"lr": "learning rate", "samples_per_s": "samples/s"}.get(kind, kind.replace("_", " "))


def _short(names: Sequence[str]) -> bool:
    return all(len(name) <= 9 for name in names)


def _value_text(row: Row, percent: bool) -> str:
    scale, digits, unit = (100, 1, " %") if percent else (1, 3, "")
    text = f"{scale * row.mean:.{digits}f}"
    if row.low is not None and row.high is not None:
        text += f" ± {scale * (row.high - row.low) / 2:.{digits}f}"
    text += unit
    return text if row.n is None else f"{text}  (n={row.n})"
