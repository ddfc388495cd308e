"""Statistics against SciPy and against values computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from neuro.analysis.compare.statistics import corrected, mean_ci, paired_comparison


def test_mean_and_interval_by_hand():
    found = mean_ci([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.302653, s = 1, s / sqrt(3) = 0.577350
    assert found.mean == 2.0 and found.std == 1.0 and found.n == 3
    assert found.half_width == pytest.approx(4.302653 * 0.577350, rel=1e-5)
    low, high = stats.t.interval(0.9, 2, loc=2.0, scale=stats.sem([1.0, 2.0, 3.0]))
    wider = mean_ci([1.0, 2.0, 3.0], level=0.9)
    assert (wider.low, wider.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval():
    found = mean_ci([0.5])
    assert (found.mean, found.low, found.high, found.std) == (0.5, None, None, None)
    assert found.half_width is None


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, "at least one"),
        ([1.0, float("nan")], 0.95, "value 2 is not finite"),
        ([1.0], 1.0, "between 0 and 1"),
    ],
)
def test_bad_values_are_refused(values, level, message):
    with pytest.raises(ValueError, match=message):
        mean_ci(values, level)


def test_paired_comparison_agrees_with_scipy():
    generator = np.random.default_rng(0)
    b = generator.normal(0.8, 0.05, 10)
    a = b + generator.normal(0.02, 0.03, 10)
    found = paired_comparison(a.tolist(), b.tolist())
    t = stats.ttest_rel(a, b)
    w = stats.wilcoxon(a, b, method="exact")
    assert (found.t, found.p_t) == (pytest.approx(t.statistic), pytest.approx(t.pvalue))
    assert (found.wilcoxon, found.p_wilcoxon) == (w.statistic, pytest.approx(w.pvalue))
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert found.difference.mean == pytest.approx((a - b).mean())
    assert found.notes == ()


def test_wilcoxon_with_ties_is_exact():
    differences = [1.0, 1.0, -1.0, 2.0, 3.0, 3.0, -2.0, 0.0]
    found = paired_comparison(differences, [0.0] * 8)
    ranks = stats.rankdata([1, 1, 1, 2, 3, 3, 2])
    signs = np.sign([d for d in differences if d])
    seen = min(ranks[signs > 0].sum(), ranks[signs < 0].sum())
    patterns = [ranks[np.array(p) > 0].sum() for p in itertools.product((-1, 1), repeat=7)]
    expected = 2 * np.mean([p <= seen for p in patterns])
    assert found.wilcoxon == seen and found.p_wilcoxon == pytest.approx(expected)


def test_many_pairs_use_scipys_approximation():
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.2, 1, 80), np.zeros(80)
    assert paired_comparison(a, b).p_wilcoxon == pytest.approx(stats.wilcoxon(a).pvalue)


def test_few_pairs_are_noted():
    found = paired_comparison([0.9, 0.91, 0.92], [0.8, 0.82, 0.81])
    assert found.p_wilcoxon == 0.25
    assert found.notes == (
        "Wilcoxon cannot reach p < 0.05 with 3 differing pairs (its smallest p is 0.25)",
    )
    one = paired_comparison([0.9], [0.8])
    assert (one.t, one.p_t, one.wilcoxon, one.effect_size) == (None,) * 4
    assert one.difference.mean == pytest.approx(0.1) and one.difference.low is None
    assert "one pair allows no test" in one.notes


def test_equal_differences_allow_no_t_test():
    same = paired_comparison([0.5, 0.6], [0.5, 0.6])
    assert same.p_t is None and same.p_wilcoxon is None and len(same.notes) == 2
    # equal in exact arithmetic, but not in floating point
    shifted = paired_comparison([0.1 + 0.2, 0.4, 0.8], [0.2, 0.3, 0.7])
    assert shifted.t is None and shifted.effect_size is None
    assert "all differences are equal" in shifted.notes[0]


def test_pairs_need_partners():
    with pytest.raises(ValueError, match="equally many values, got 2 and 1"):
        paired_comparison([1.0, 2.0], [1.0])


def test_holm_by_hand():
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.04, None, 0.01]) == [0.04, None, 0.02]
    assert corrected([0.9, 0.8]) == [1.0, 1.0]
    assert corrected([]) == [] and corrected([None]) == [None]
    with pytest.raises(ValueError, match="between 0 and 1"):
        corrected([1.5])


def test_other_corrections_by_hand():
    p_values = [0.01, None, 0.04, 0.03]
    assert corrected(p_values, "none") == p_values
    assert corrected(p_values, "bonferroni") == [0.03, None, pytest.approx(0.12), 0.09]
    # sorted 0.01 * 3/1, 0.03 * 3/2, 0.04 * 3/3, none above the next
    found = corrected(p_values, "benjamini-hochberg")
    assert found[1] is None
    assert [found[0], *found[2:]] == pytest.approx([0.03, 0.04, 0.04])
    assert corrected([0.5, 0.9], "bonferroni") == [1.0, 1.0]


def test_benjamini_hochberg_agrees_with_scipy():
    generator = np.random.default_rng(2)
    for n in (1, 2, 38):
        p_values = generator.uniform(0, 1, n) ** 3
        p_values[-1] = p_values[0]  # a tie
        expected = stats.false_discovery_control(p_values, method="bh")
        found = corrected(p_values.tolist(), "benjamini-hochberg")
        assert found == pytest.approx(expected.tolist(), rel=1e-15)


def test_hedges_corrects_the_bias_of_few_pairs():
    """J(2) = gamma(1) / (sqrt(1) gamma(1/2)) = 1 / sqrt(pi)."""
    found = paired_comparison([0.9, 0.95, 0.91], [0.8, 0.82, 0.81])
    assert found.hedges_g == pytest.approx(found.effect_size / math.sqrt(math.pi))
    many = paired_comparison(list(np.sin(range(200))), [0.1] * 200)
    assert many.hedges_g == pytest.approx(many.effect_size * (1 - 3 / (4 * 199 - 1)), rel=1e-5)
    assert paired_comparison([0.9, 0.95], [0.8, 0.82]).hedges_g is None
    assert paired_comparison([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).hedges_g is None
