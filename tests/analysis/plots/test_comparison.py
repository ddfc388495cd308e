"""Plots of several configurations show the data they were given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neuro.analysis.compare.statistics import mean_ci
from neuro.analysis.plots.comparison import Point, band, front, learning_curves, pareto
from neuro.analysis.plots.style import PALETTE
from neuro.runs.record import Series


def point(label: str, x: float, y: float, spread: float = 0.0) -> Point:
    return Point(label, mean_ci([x - spread, x + spread]), mean_ci([y - spread, y + spread]))


def test_a_band_has_mean_and_range() -> None:
    found = band([Series((1, 2, 3), (1.0, 2.0, 3.0)), Series((1, 2, 3), (3.0, 2.0, 5.0))])
    assert found.steps.tolist() == [1, 2, 3]
    assert found.mean.tolist() == [2, 2, 4]
    assert (found.low.tolist(), found.high.tolist()) == ([1, 2, 3], [3, 2, 5])


def test_a_band_covers_common_steps_and_skips_nan() -> None:
    long = Series((0, 10, 20, 30), (0.0, 1.0, 2.0, 3.0))
    short = Series((5, 10, 15), (0.0, math.nan, 1.0))
    found = band([long, short])
    assert found.steps.tolist() == [5, 10, 15]
    assert found.mean.tolist() == pytest.approx([0.25, 0.75, 1.25])
    assert len(band([Series((1,), (math.nan,))]).steps) == 0
    many = Series(tuple(range(5000)), tuple(np.arange(5000.0)))
    assert len(band([many]).steps) == 300


def test_curves_share_axes() -> None:
    runs = {"a": [Series((1, 2), (0.1, 0.2))], "b": [Series((1, 2), (0.3, 0.4))]}
    (ax,) = learning_curves(runs, "val/accuracy").axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.1, 0.2], [0.3, 0.4]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_ylabel() == "val/accuracy"
    assert ax.yaxis.get_major_formatter()(0.5, 0) == "50 %"


def test_the_front_has_the_non_dominated_points() -> None:
    points = [point("a", 1, 1), point("b", 2, 3), point("c", 3, 2), point("d", 1, 3)]
    assert [p.label for p in front(points, ("max", "max"))] == ["b", "c"]
    assert [p.label for p in front(points, ("min", "max"))] == ["d"]
    assert [p.label for p in front(points, ("min", "min"))] == ["a"]
    twins = [point("a", 1, 1), point("b", 1, 1)]
    assert len(front(twins, ("max", "max"))) == 2


def test_a_pareto_plot_shows_all_means_and_names_directions() -> None:
    points = [point("a", 0.5, 10.0, 0.4), point("b", 0.6, 12.0), point("c", 0.55, 11.0)]
    (ax,) = pareto(points, ("test/accuracy", "hardware/cores"), ("max", "min")).axes
    assert ax.get_xlabel() == "test/accuracy (higher is better)"
    assert ax.get_ylabel() == "hardware/cores (lower is better)"
    joined = ax.lines[0]
    assert joined.get_xdata() == pytest.approx([0.5, 0.55, 0.6])
    low, high = ax.get_xlim()
    assert (low, high) == pytest.approx((0.45, 0.65))  # not as wide as the interval of a
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "c"]


def test_only_the_first_and_the_front_of_many_points_are_coloured() -> None:
    points = [point(str(i), i, -i) for i in range(12)] + [point("inside", 0.0, -11.0)]
    (ax,) = pareto(points, ("x", "y"), ("max", "max")).axes
    assert len(ax.get_legend().get_texts()) == 12  # all but the last are on the front
    (ax,) = pareto(points, ("x", "y"), ("max", "min")).axes
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == [*map(str, range(len(PALETTE))), "11"]


def test_a_single_point_has_margins() -> None:
    (ax,) = pareto([point("a", 0.0, 0.0)], ("x", "y"), ("max", "max")).axes
    assert ax.get_xlim() == (-0.5, 0.5)


@pytest.mark.filterwarnings("error", "ignore::PendingDeprecationWarning")
def test_long_names_are_complete_and_do_not_shrink_the_plot() -> None:
    names = [", ".join(f"model.neuron.option_{i}={j}" for i in range(8)) for j in range(8)]
    series = [Series((1, 2), (0.1, 0.9))]
    metric = "val/a_task_with_a_long_name/accuracy"
    points = [point(name, i, i) for i, name in enumerate(names)]
    for figure in (
        learning_curves(dict.fromkeys(names, series), metric),
        pareto(points, ("hardware/cores", metric), ("min", "max")),
    ):
        figure.canvas.draw()
        (legend,) = figure.legends
        shown = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
        assert shown == names
        box = legend.get_window_extent()
        assert box.x1 <= figure.bbox.x1 and box.y0 >= 0
        (ax,) = figure.axes
        assert ax.get_window_extent().height > 1.8 * figure.dpi
        label = ax.yaxis.label.get_window_extent()
        assert label.y0 >= 0 and label.y1 <= figure.bbox.y1


def test_equal_curves_can_be_distinguished() -> None:
    series = [Series((1, 2), (0.1, 0.9))]
    (ax,) = learning_curves(dict.fromkeys("ab", series), "val/loss").axes
    first, second = ax.lines
    assert first.get_linestyle() != second.get_linestyle()
