"""A comparison as a self-contained HTML page: tables, learning curves, matrices, Pareto plot."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.analysis.compare import configs, tables
from neuro.analysis.compare.comparison import Comparison
from neuro.analysis.compare.configurations import Configuration
from neuro.analysis.compare.significance import Significance
from neuro.analysis.metrics import Direction, check_known, parse_direction
from neuro.analysis.plots import comparison as comparison_plots
from neuro.analysis.plots import training as plots
from neuro.analysis.plots.style import PALETTE
from neuro.errors import ConfigError
from neuro.runs.record import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: most configurations in a plot: one for each colour
MAX_DRAWN = len(PALETTE)

#: x axis of the Pareto plot: the first of these metrics that runs have
_COSTS = ("hardware/energy_uj_high", "continual/forgetting", "test/loss")

TEMPLATE = Path(__file__).with_name("report.html.j2")


class Image(NamedTuple):
    """An image of the page.

    - `source`: data URL
    - `text`: alternative text
    - `shown`: number of configurations in it
    """

    source: str
    text: str
    shown: int


def page(
    comparison: Comparison,
    metrics: Sequence[str],
    baseline: Configuration | None = None,
    significance: Significance | None = None,
    pareto: str | None = None,
    directories: Sequence[Path] = (),
) -> str:
    """The HTML text of the page.

    - `metrics`: columns of the table
    - `pareto`: axes of the Pareto plot, `x,y`, each with an optional `:max` or `:min`; None: a
      metric of `_COSTS` and the objective
    - `directories`: of the compared runs, for the title

    ConfigError if `pareto` is not of this form or names a metric that no run has.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    axes = _axes(comparison, pareto)
    drawn = _drawn(comparison, baseline)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=", ".join(map(str, directories)) or "comparison",
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        comparison=comparison,
        runs=sum(len(c.runs) for c in comparison.configurations),
        summary=tables.summary_table(comparison, metrics, baseline),
        values=[[_mean(c, metric) for metric in metrics] for c in comparison.configurations],
        baseline=baseline,
        tests=None if significance is None else tables.significance_table(significance),
        notes=[*comparison.notes, *(significance.notes() if significance else ())],
        differences=_differences(comparison),
        drawn=len(drawn),
        curves=_curves(drawn),
        matrices=_matrices(drawn),
        pareto=None if axes is None else _pareto(comparison, axes),
    )


def _drawn(comparison: Comparison, baseline: Configuration | None) -> Sequence[Configuration]:
    """The best configurations and the baseline, `MAX_DRAWN` at most."""
    best = comparison.configurations[:MAX_DRAWN]
    return best if baseline is None or baseline in best else (*best[:-1], baseline)


def _mean(configuration: Configuration, metric: str) -> float | None:
    interval = configuration.interval(metric)
    return None if interval is None else interval.mean


def _differences(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Each differing key with its values in the configurations; '' where it does not exist."""
    return [
        (
            key.removesuffix("._target_"),
            [
                configs.value_text(key, c.config[key]) if key in c.config else ""
                for c in comparison.configurations
            ],
        )
        for key in comparison.differing
    ]


def _curves(drawn: Sequence[Configuration]) -> list[Image]:
    """Plots of each monitored metric and of the training loss over optimizer steps."""
    monitored = dict.fromkeys(run.monitor for c in drawn for run in c.runs)
    logged = {c.label: [run.record.metrics() for run in c.runs] for c in drawn}
    images = []
    for name in (*monitored, "train/loss"):
        curves: dict[str, list[Series]] = {
            label: found
            for label, runs in logged.items()
            if (found := [series[name] for series in runs if name in series])
        }
        if curves:
            figure = comparison_plots.learning_curves(curves, name)
            images.append(_image(figure, f"{name} over optimizer steps", len(curves)))
    return images


def _matrices(drawn: Sequence[Configuration]) -> list[Image]:
    """Each configuration's accuracy matrix, averaged over its runs with the first run's tasks."""
    images = []
    for configuration in drawn:
        reports = [run.report for run in configuration.runs]
        measured = [report.continual for report in reports if report.continual is not None]
        if not measured:
            continue
        tasks, phases = measured[0].tasks, [phase.name for phase in reports[0].phases]
        alike = [found.matrix for found in measured if found.tasks == tasks]
        figure = plots.accuracy_matrix(
            np.asarray(alike, dtype=float).mean(axis=0),
            tasks,
            phases,
            title=configuration.label,
            score=configuration.runs[0].score,
        )
        images.append(_image(figure, f"accuracy matrix of {configuration.label}", 1))
    return images


def _axes(
    comparison: Comparison, axes: str | None
) -> tuple[tuple[str, str], tuple[Direction, Direction]] | None:
    """The x and y metric of the Pareto plot and their directions; None if there is no cost."""
    if axes is None:
        costs = [m for m in _COSTS if m in comparison.metrics and m != comparison.objective]
        if not costs:
            return None
        axes = f"{costs[0]},{comparison.objective}"
    parts = axes.split(",")
    if len(parts) != 2:
        raise ConfigError(f"--pareto {axes}: takes two metrics, separated by a comma.")
    given = [parse_direction(part.strip(), "--pareto") for part in parts]
    for name, _ in given:
        if name not in comparison.metrics:
            check_known(name, comparison.metrics, "--pareto")
    (x, x_direction), (y, y_direction) = given
    return (x, y), (
        x_direction or comparison.direction_of(x),
        y_direction or comparison.direction_of(y),
    )


def _pareto(
    comparison: Comparison, axes: tuple[tuple[str, str], tuple[Direction, Direction]]
) -> Image:
    (x, y), directions = axes
    points = [
        comparison_plots.Point(c.label, horizontal, vertical)
        for c in comparison.configurations
        if (horizontal := c.interval(x)) and (vertical := c.interval(y))
    ]
    if not points:
        raise ConfigError(f"--pareto {x},{y}: no configuration has both metrics.")
    figure = comparison_plots.pareto(points, (x, y), directions)
    return _image(figure, f"{y} against {x}", len(points))


def _image(figure: Figure, text: str, shown: int) -> Image:
    """A figure as SVG in a data URL."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return Image(f"data:image/svg+xml;base64,{data}", text, shown)
