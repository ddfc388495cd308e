"""A comparison as one HTML page that needs nothing else: tables, curves, matrices, Pareto plot."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuro.analysis.compare import configs, tables
from neuro.analysis.compare.comparison import Comparison
from neuro.analysis.compare.groups import Group
from neuro.analysis.compare.significance import Significance
from neuro.analysis.metrics import Direction, check_known, parse_direction
from neuro.analysis.plots import comparison as comparison_plots
from neuro.analysis.plots import training as plots
from neuro.analysis.plots.style import PALETTE
from neuro.errors import ConfigError
from neuro.runs.record import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: configurations that are drawn: as many as there are colours
DRAWN = len(PALETTE)

#: what a Pareto plot shows against the objective, if runs have it
_COSTS = ("hardware/energy_uj_high", "continual/forgetting", "test/loss")

TEMPLATE = Path(__file__).with_name("report.html.j2")


class Picture(NamedTuple):
    """An image as its page holds it, with what a reader who does not see it is told."""

    source: str
    text: str


def page(
    comparison: Comparison,
    metrics: Sequence[str],
    baseline: Group | None = None,
    significance: Significance | None = None,
    pareto: str | None = None,
    directories: Sequence[Path] = (),
) -> str:
    """The page. ConfigError if `pareto` (`x,y`, each with `:max` or `:min` if wanted) is wrong."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    axes = _axes(comparison, pareto)
    drawn = _drawn(comparison, baseline)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=", ".join(map(str, directories)) or "comparison",
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        comparison=comparison,
        runs=sum(len(group.members) for group in comparison.groups),
        summary=tables.summary_table(comparison, metrics, baseline),
        values=[[_mean(group, metric) for metric in metrics] for group in comparison.groups],
        baseline=baseline,
        tests=None if significance is None else tables.significance_table(significance),
        notes=[*comparison.notes, *(significance.notes() if significance else ())],
        differences=_differences(comparison),
        drawn=len(drawn),
        curves=_curves(drawn),
        matrices=_matrices(drawn),
        pareto=None if axes is None else _pareto(comparison, axes),
    )


def _drawn(comparison: Comparison, baseline: Group | None) -> Sequence[Group]:
    """The best configurations, and the baseline in any case."""
    best = comparison.groups[:DRAWN]
    return best if baseline is None or baseline in best else (*best[:-1], baseline)


def _mean(group: Group, metric: str) -> float | None:
    interval = group.interval(metric)
    return None if interval is None else interval.mean


def _differences(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Each differing key with its value in every configuration; '' where it does not exist."""
    return [
        (
            key.removesuffix("._target_"),
            [
                configs.value_text(key, group.config[key]) if key in group.config else ""
                for group in comparison.groups
            ],
        )
        for key in comparison.differing
    ]


def _curves(groups: Sequence[Group]) -> list[Picture]:
    """The metric that each run monitors, and the training loss, over the optimizer's steps."""
    monitored = dict.fromkeys(member.monitor for group in groups for member in group.members)
    logged = {group.label: [member.run.metrics() for member in group.members] for group in groups}
    pictures = []
    for name in (*monitored, "train/loss"):
        curves: dict[str, list[Series]] = {
            label: found
            for label, runs in logged.items()
            if (found := [series[name] for series in runs if name in series])
        }
        if curves:
            figure = comparison_plots.learning_curves(curves, name)
            pictures.append(_picture(figure, f"{name} over optimizer steps"))
    return pictures


def _matrices(groups: Sequence[Group]) -> list[Picture]:
    """The accuracy matrix of each configuration, its mean over runs of the same curriculum."""
    pictures = []
    for group in groups:
        reports = [run.report for run in group.runs if run.report is not None]
        measured = [report.continual for report in reports if report.continual is not None]
        if not measured:
            continue
        tasks, phases = measured[0].tasks, [phase.name for phase in reports[0].phases]
        alike = [found.matrix for found in measured if found.tasks == tasks]
        figure = plots.accuracy_matrix(
            _mean_matrix(alike), tasks, phases, title=group.label, score=group.members[0].score
        )
        pictures.append(_picture(figure, f"accuracy matrix of {group.label}"))
    return pictures


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float | None]]]) -> Any:
    import numpy as np

    return np.asarray(matrices, dtype=float).mean(axis=0)


def _axes(
    comparison: Comparison, asked: str | None
) -> tuple[tuple[str, str], tuple[Direction, Direction]] | None:
    """The metrics of the Pareto plot and their directions; None if runs have no second metric."""
    if asked is None:
        costs = [m for m in _COSTS if m in comparison.metrics and m != comparison.objective]
        if not costs:
            return None
        asked = f"{costs[0]},{comparison.objective}"
    parts = asked.split(",")
    if len(parts) != 2:
        raise ConfigError(f"--pareto {asked}: takes two metrics with a comma between.")
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
) -> Picture:
    (x, y), directions = axes
    points = [
        comparison_plots.Point(group.label, horizontal, vertical)
        for group in comparison.groups
        if (horizontal := group.interval(x)) and (vertical := group.interval(y))
    ]
    if not points:
        raise ConfigError(f"--pareto {x},{y}: no configuration has both metrics.")
    return _picture(comparison_plots.pareto(points, (x, y), directions), f"{y} against {x}")


def _picture(figure: Figure, text: str) -> Picture:
    """A figure as SVG within the page."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{data}", text)
