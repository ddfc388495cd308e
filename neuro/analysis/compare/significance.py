"""Tests configurations against a baseline: paired by the seeds that both were run with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from neuro.analysis.compare.configurations import Configuration, Seeds
from neuro.analysis.compare.statistics import (
    Correction,
    PairedComparison,
    corrected,
    paired_comparison,
)


@dataclass(frozen=True)
class BaselineTest:
    """The test of a configuration against the baseline in one metric.

    - `paired`: None if the two have no seed in common; `reason` then says so
    - `p_t_corrected`, `p_wilcoxon_corrected`: corrected for all t tests, or all Wilcoxon tests, of
      a `Significance`
    """

    label: str
    metric: str
    paired: PairedComparison | None
    reason: str | None
    p_t_corrected: float | None = None
    p_wilcoxon_corrected: float | None = None


@dataclass(frozen=True)
class Significance:
    """All tests against a baseline."""

    baseline: str
    correction: Correction
    tests: tuple[BaselineTest, ...]

    def comparisons(self) -> int:
        """Number of t tests that the p values are corrected for."""
        return sum(t.paired is not None and t.paired.p_t is not None for t in self.tests)

    def notes(self) -> list[str]:
        """Reasons for tests that were not possible, each after the configurations concerned."""
        found: dict[str, list[str]] = {}
        for test in self.tests:
            reasons = (test.reason,) if test.paired is None else test.paired.notes
            for reason in filter(None, reasons):
                labels = found.setdefault(reason, [])
                if test.label not in labels:
                    labels.append(test.label)
        all_labels = {test.label for test in self.tests}
        return [
            f"{'all' if set(labels) == all_labels else '; '.join(labels)}: {reason}"
            for reason, labels in found.items()
        ]


def against_baseline(
    baseline: Configuration,
    configurations: Iterable[Configuration],
    metrics: Sequence[str],
    correction: Correction,
) -> Significance:
    """Test each configuration but the baseline in each metric.

    Differences are configuration minus baseline.
    """
    others = [c for c in configurations if c is not baseline]
    found = [_test(baseline, other, metric) for metric in metrics for other in others]
    p_t = corrected([None if t.paired is None else t.paired.p_t for t in found], correction)
    p_wilcoxon = corrected(
        [None if t.paired is None else t.paired.p_wilcoxon for t in found], correction
    )
    tests = (
        replace(test, p_t_corrected=t, p_wilcoxon_corrected=w)
        for test, t, w in zip(found, p_t, p_wilcoxon, strict=True)
    )
    return Significance(baseline.label, correction, tuple(tests))


def _test(baseline: Configuration, other: Configuration, metric: str) -> BaselineTest:
    values, reference = other.by_seed(metric), baseline.by_seed(metric)
    common = [seeds for seeds in reference if seeds in values]
    if not common:
        text = (
            f"no seed in common with the baseline (seeds {_list(values)}; "
            f"of the baseline {_list(reference)})"
        )
        reason = text if values and reference else f"{metric} was not measured"
        return BaselineTest(other.label, metric, None, reason)
    paired = paired_comparison([values[s] for s in common], [reference[s] for s in common])
    return BaselineTest(other.label, metric, paired, None)


def _list(seeds: Iterable[Seeds]) -> str:
    """Seeds as text; a single number for runs whose seeds are all equal."""
    texts = [str(one[0]) if len(set(one)) == 1 else "/".join(map(str, one)) for one in seeds]
    return ", ".join(texts) or "none"
