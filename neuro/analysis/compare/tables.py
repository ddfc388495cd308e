"""A comparison as tables of text: configurations with their metrics, and tests against one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuro.analysis.compare.comparison import Comparison, configs
from neuro.analysis.compare.groups import Group
from neuro.analysis.compare.significance import GroupTest, Significance
from neuro.analysis.compare.statistics import MeanInterval
from neuro.analysis.metrics import headings, is_fraction, number

#: deviations that a row shows before it says how many there are
_SHOWN = 3
NONE = "-"


@dataclass(frozen=True)
class Table:
    """Text cells; `left` columns are aligned to the left, all others to the right."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def summary_table(
    comparison: Comparison, metrics: Sequence[str], baseline: Group | None = None
) -> Table:
    """A row for each configuration: what is special in it, runs, and metrics over seeds."""
    special = [
        _special(group, found)
        for group, found in zip(comparison.groups, comparison.deviations(baseline), strict=True)
    ]
    with_special = any(special)
    rows = [
        (
            group.label,
            *((text or NONE,) if with_special else ()),
            _counts(group),
            *(cell(metric, group.interval(metric), len(set(group.seeds))) for metric in metrics),
        )
        for group, text in zip(comparison.groups, special, strict=True)
    ]
    names = {
        metric: f"{name}, %" if is_fraction(metric) else name
        for metric, name in headings(metrics).items()
    }
    first = ("configuration", "differs in") if with_special else ("configuration",)
    return Table(
        "mean ± half of the 95 % confidence interval (standard deviation) over seeds",
        (*first, "runs", *(names[m] for m in metrics)),
        tuple(rows),
        len(first),
    )


def significance_table(significance: Significance) -> Table:
    """A row for each test: difference, both tests with corrected p values, effect sizes."""
    metrics = list(dict.fromkeys(test.metric for test in significance.tests))
    several = len(metrics) > 1
    correct = significance.correction != "none"
    p = ("p", f"p ({significance.correction})") if correct else ("p",)
    title = f"against {significance.baseline}: paired by seed"
    if not several:
        title += f", {metrics[0]}" if metrics else ""
    if correct:
        count = significance.comparisons()
        title += f"; p corrected for {count} comparison{'' if count == 1 else 's'}"
    return Table(
        title,
        (
            "configuration", *(("metric",) if several else ()), "pairs", "difference", "t", *p,
            "Wilcoxon W", *p, "d_z", "Hedges g",
        ),
        tuple(_test_row(test, several, correct) for test in significance.tests),
        2 if several else 1,
    )  # fmt: skip


def cell(metric: str, interval: MeanInterval | None, seeds: int) -> str:
    """A metric over seeds, fractions in percent; says of how many if not all have it."""
    if interval is None:
        return NONE
    text = _values(metric, interval)
    return text if interval.n == seeds else f"{text} n={interval.n}"


def _values(metric: str, interval: MeanInterval) -> str:
    text = _value(metric, interval.mean)
    if interval.half_width is not None and interval.std is not None:
        text += f" ± {_value(metric, interval.half_width)} ({_value(metric, interval.std)})"
    return text


def _value(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if is_fraction(metric) else number(value)


def _counts(group: Group) -> str:
    runs, seeds = len(group.members), len(set(group.seeds))
    return str(runs) if runs == seeds else f"{runs} ({seeds} seed{'s' if seeds > 1 else ''})"


def _special(group: Group, deviations: Mapping[str, Any]) -> str:
    """What is special in a config and not said by its name; classes and short keys come first."""
    said = {part.partition("=")[0] for part in group.label.split(", ")}
    keys = [key for key in deviations if key not in said]
    keys.sort(key=lambda key: (not key.endswith("._target_"), key.count(".")))
    texts = [configs.shown(key, deviations[key]) for key in keys]
    more = f", {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _test_row(test: GroupTest, several: bool, correct: bool) -> tuple[str, ...]:
    name = (test.label, test.metric) if several else (test.label,)
    paired = test.paired
    if paired is None:
        return (*name, "0", *(NONE,) * (9 if correct else 7))
    p_t = (paired.p_t, test.p_t_corrected) if correct else (paired.p_t,)
    p_w = (paired.p_wilcoxon, test.p_wilcoxon_corrected) if correct else (paired.p_wilcoxon,)
    return (
        *name, str(paired.difference.n), _difference(test.metric, paired.difference),
        _optional(paired.t, "{:.2f}"), *map(p_text, p_t),
        _optional(paired.wilcoxon, "{:g}"), *map(p_text, p_w),
        _optional(paired.effect_size, "{:.2f}"), _optional(paired.hedges_g, "{:.2f}"),
    )  # fmt: skip


def _difference(metric: str, interval: MeanInterval) -> str:
    text = ("+" if interval.mean > 0 else "") + _value(metric, interval.mean)
    if interval.half_width is not None:
        text += f" ± {_value(metric, interval.half_width)}"
    return f"{text} points" if is_fraction(metric) else text


def p_text(p: float | None) -> str:
    """A p value as it is printed."""
    if p is None:
        return NONE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _optional(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)
