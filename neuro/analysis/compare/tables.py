"""Tables of text from a comparison: metrics of configurations, tests against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuro.analysis.compare import configs
from neuro.analysis.metrics import headings, is_fraction, number

if TYPE_CHECKING:  # these import NumPy, which `neuro runs` must not load
    from neuro.analysis.compare.comparison import Comparison
    from neuro.analysis.compare.configurations import Configuration
    from neuro.analysis.compare.significance import BaselineTest, Significance
    from neuro.analysis.compare.statistics import MeanInterval

#: most deviations listed in a row; of further ones, the row gives the number
_MAX_DEVIATIONS = 3

#: cell without a value
NONE = "-"


@dataclass(frozen=True)
class Table:
    """Text cells; the first `left` columns are aligned to the left, all others to the right."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def summary_table(
    comparison: Comparison, metrics: Sequence[str], baseline: Configuration | None = None
) -> Table:
    """A row for each configuration: label, deviations, number of runs, metrics over seeds.

    Deviations are relative to the baseline, see `configs.deviations`.
    """
    deviations = [
        _deviations(configuration, found)
        for configuration, found in zip(
            comparison.configurations, comparison.deviations(baseline), strict=True
        )
    ]
    with_deviations = any(deviations)
    rows = [
        (
            configuration.label,
            *((text or NONE,) if with_deviations else ()),
            _counts(configuration),
            *(
                cell(metric, configuration.interval(metric), len(set(configuration.seeds)))
                for metric in metrics
            ),
        )
        for configuration, text in zip(comparison.configurations, deviations, strict=True)
    ]
    names = {
        metric: f"{name}, %" if is_fraction(metric) else name
        for metric, name in headings(metrics).items()
    }
    first = ("configuration", "differs in") if with_deviations else ("configuration",)
    return Table(
        "mean ± half of the 95 % confidence interval (standard deviation) over seeds",
        (*first, "runs", *(names[m] for m in metrics)),
        tuple(rows),
        len(first),
    )


def significance_table(significance: Significance) -> Table:
    """A row for each test: pairs, difference, t and Wilcoxon test, effect sizes."""
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
            "configuration",
            *(("metric",) if several else ()),
            *("pairs", "difference", "t", *p, "Wilcoxon W", *p, "d_z", "Hedges g"),
        ),
        tuple(_test_row(test, several, correct) for test in significance.tests),
        2 if several else 1,
    )


def cell(metric: str, interval: MeanInterval | None, seeds: int) -> str:
    """Mean, half width and standard deviation of a metric, fractions in percent.

    The number of values is added if it is not `seeds`, because some runs lack the metric.
    """
    if interval is None:
        return NONE
    text = _value(metric, interval.mean)
    if interval.half_width is not None and interval.std is not None:
        text += f" ± {_value(metric, interval.half_width)} ({_value(metric, interval.std)})"
    return text if interval.n == seeds else f"{text} n={interval.n}"


def _value(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if is_fraction(metric) else number(value)


def _counts(configuration: Configuration) -> str:
    runs, seeds = len(configuration.runs), len(set(configuration.seeds))
    return str(runs) if runs == seeds else f"{runs} ({seeds} seed{'s' if seeds > 1 else ''})"


def _deviations(configuration: Configuration, deviations: Mapping[str, object]) -> str:
    """Deviations that the label does not mention; classes and short keys first."""
    mentioned = {part.partition("=")[0] for part in configuration.label.split(", ")}
    keys = [key for key in deviations if key not in mentioned]
    keys.sort(key=lambda key: (not key.endswith("._target_"), key.count(".")))
    texts = [configs.as_override(key, deviations[key]) for key in keys]
    more = f", {len(texts) - _MAX_DEVIATIONS} more" if len(texts) > _MAX_DEVIATIONS else ""
    return ", ".join(texts[:_MAX_DEVIATIONS]) + more


def _test_row(test: BaselineTest, several: bool, correct: bool) -> tuple[str, ...]:
    name = (test.label, test.metric) if several else (test.label,)
    paired = test.paired
    if paired is None:
        return (*name, "0", *(NONE,) * (9 if correct else 7))
    p_t = (paired.p_t, test.p_t_corrected) if correct else (paired.p_t,)
    p_w = (paired.p_wilcoxon, test.p_wilcoxon_corrected) if correct else (paired.p_wilcoxon,)
    return (
        *name,
        str(paired.difference.n),
        _difference(test.metric, paired.difference),
        _optional(paired.t, "{:.2f}"),
        *map(p_text, p_t),
        _optional(paired.wilcoxon, "{:g}"),
        *map(p_text, p_w),
        _optional(paired.effect_size, "{:.2f}"),
        _optional(paired.hedges_g, "{:.2f}"),
    )


def _difference(metric: str, interval: MeanInterval) -> str:
    text = ("+" if interval.mean > 0 else "") + _value(metric, interval.mean)
    if interval.half_width is not None:
        text += f" ± {_value(metric, interval.half_width)}"
    return f"{text} points" if is_fraction(metric) else text


def p_text(p: float | None) -> str:
    """A p value as text, with at most four decimals."""
    if p is None:
        return NONE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _optional(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)
