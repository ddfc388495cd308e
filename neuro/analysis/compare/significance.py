"""Every configuration against a baseline: paired tests on the seeds that both were run with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neuro.analysis.compare.groups import Group, Seeds
from neuro.analysis.compare.statistics import (
    Correction,
    PairedComparison,
    corrected,
    paired_comparison,
)


@dataclass(frozen=True)
class GroupTest:
    """A configuration against the baseline in one metric.

    `paired` is None if both share no seed that has the metric; `reason` then says so. The corrected
    p values are over all tests of a kind in a `Significance`.
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
    tests: tuple[GroupTest, ...]

    def comparisons(self) -> int:
        """How many t tests the correction is for."""
        return sum(t.paired is not None and t.paired.p_t is not None for t in self.tests)

    def notes(self) -> list[str]:
        """What could not be tested and why, each reason with the configurations it holds for."""
        found: dict[str, list[str]] = {}
        for test in self.tests:
            reasons = (test.reason,) if test.paired is None else test.paired.notes
            for reason in filter(None, reasons):
                labels = found.setdefault(reason, [])
                if test.label not in labels:
                    labels.append(test.label)
        everyone = {test.label for test in self.tests}
        return [
            f"{'all' if set(labels) == everyone else '; '.join(labels)}: {reason}"
            for reason, labels in found.items()
        ]


def against_baseline(
    baseline: Group, groups: Iterable[Group], metrics: Sequence[str], correction: Correction
) -> Significance:
    """Test each group but the baseline in each metric; the difference is group minus baseline."""
    others = [group for group in groups if group is not baseline]
    found = [_test(baseline, group, metric) for metric in metrics for group in others]
    p_t = corrected([None if t.paired is None else t.paired.p_t for t in found], correction)
    p_wilcoxon = corrected(
        [None if t.paired is None else t.paired.p_wilcoxon for t in found], correction
    )
    tests = (
        GroupTest(test.label, test.metric, test.paired, test.reason, t, w)
        for test, t, w in zip(found, p_t, p_wilcoxon, strict=True)
    )
    return Significance(baseline.label, correction, tuple(tests))


def _test(baseline: Group, group: Group, metric: str) -> GroupTest:
    mine, theirs = group.by_seed(metric), baseline.by_seed(metric)
    common = [seeds for seeds in theirs if seeds in mine]
    if not common:
        text = f"no seed in common with the baseline (seeds {_list(mine)}; it has {_list(theirs)})"
        reason = text if mine and theirs else f"{metric} was not measured"
        return GroupTest(group.label, metric, None, reason)
    paired = paired_comparison([mine[s] for s in common], [theirs[s] for s in common])
    return GroupTest(group.label, metric, paired, None)


def _list(seeds: Iterable[Seeds]) -> str:
    """Seeds as text; one number where all of a run's seeds are the same."""
    texts = [str(one[0]) if len(set(one)) == 1 else "/".join(map(str, one)) for one in seeds]
    return ", ".join(texts) or "none"
