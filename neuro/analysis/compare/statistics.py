"""Statistics of repeated runs: confidence intervals, paired comparison, multiple testing.

Samples are small (three to ten seeds). Therefore Wilcoxon's p values come from the exact
distribution instead of its normal approximation, and each test that is not possible with so few
values is explained in `PairedComparison.notes`.

Student's t distribution is that of `scipy.special`: the values of `scipy.stats` at a quarter of its
import time. For the same reason p values are corrected here and not by statsmodels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Correction = Literal["holm", "benjamini-hochberg", "bonferroni", "none"]


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its confidence interval; `low`, `high` and `std` are None if n = 1."""

    mean: float
    low: float | None
    high: float | None
    std: float | None  #: of the sample, with n - 1 in the denominator
    n: int
    level: float  #: confidence level, such as 0.95

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width: the number after ± in tables."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class PairedComparison:
    """Results of a paired comparison of a with b; None where a test is not possible, see `notes`.

    - `difference`: mean of a - b with its interval
    - `t`, `p_t`: statistic and two-sided p value of the paired t test
    - `wilcoxon`, `p_wilcoxon`: min(W+, W-) and two-sided p value of the signed-rank test
    - `effect_size`: Cohen's d_z, the mean difference over the standard deviation of the
      differences (Cohen 1988, Statistical Power Analysis, section 2.3)
    """

    difference: MeanInterval
    t: float | None
    p_t: float | None
    wilcoxon: float | None
    p_wilcoxon: float | None
    effect_size: float | None
    notes: tuple[str, ...] = ()

    @property
    def hedges_g(self) -> float | None:
        """d_z corrected for its bias in small samples; None below 3 pairs.

        g = J(n - 1) d_z with J(m) = gamma(m/2) / (sqrt(m/2) gamma((m-1)/2)) (Hedges 1981,
        J. Educ. Stat. 6(2), equation 6e), computed in logarithms, since gamma overflows above 171.
        """
        m = self.difference.n - 1
        if self.effect_size is None or m < 2:
            return None
        log_j = math.lgamma(m / 2) - math.lgamma((m - 1) / 2) - math.log(m / 2) / 2
        return math.exp(log_j) * self.effect_size


def mean_ci(values: Sequence[float], level: float = 0.95) -> MeanInterval:
    """Mean of independent values with Student's t interval: mean ± t(n - 1) std / sqrt(n).

    ValueError if there are no values, if one is not finite, or if `level` is not between 0 and 1.
    """
    data = _finite(values)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    n, mean = len(data), float(data.mean())
    if n == 1:
        return MeanInterval(mean, None, None, None, 1, level)
    from scipy.special import stdtrit  # quantiles of Student's t

    std = float(data.std(ddof=1))
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * std / math.sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, std, n, level)


def paired_comparison(
    a: Sequence[float], b: Sequence[float], level: float = 0.95
) -> PairedComparison:
    """Compare values of two systems with the same seeds: paired t test, Wilcoxon, effect size.

    Values pair by position. The p value of Wilcoxon's signed-rank test is exact up to 50 pairs,
    also with ties.

    ValueError if a and b differ in length, are empty, or hold a value that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equally many values, got {len(a)} and {len(b)}")
    first, second = _finite(a), _finite(b)
    differences = first - second
    scale = max(float(np.abs(first).max()), float(np.abs(second).max()))
    # equal values that were computed in different orders differ by rounding
    differences[np.abs(differences) <= 1e-12 * scale] = 0.0
    interval = mean_ci(differences.tolist(), level)
    n = interval.n
    if n == 1:
        return PairedComparison(
            interval, None, None, None, None, None, ("one pair allows no test",)
        )
    notes: list[str] = []
    std = interval.std or 0.0
    t = p_t = effect = None
    if std > 1e-12 * scale:
        from scipy.special import stdtr  # distribution function of Student's t

        effect = interval.mean / std
        t = effect * math.sqrt(n)
        p_t = float(2 * stdtr(n - 1, -abs(t)))
    else:
        notes.append("all differences are equal: no t test and no effect size")
    statistic, p_wilcoxon = _signed_rank(differences)
    if p_wilcoxon is None:
        notes.append("no pair differs: no Wilcoxon test")
    else:
        differing = int(np.count_nonzero(differences))
        smallest = 2.0 ** (1 - differing)  # all signs equal: two of the 2^n sign patterns
        if smallest > 1 - level:
            notes.append(
                f"Wilcoxon cannot reach p < {1 - level:.2g} with {differing} differing "
                f"pair{'' if differing == 1 else 's'} "
                f"(its smallest p is {smallest:.3g})"
            )
    return PairedComparison(interval, t, p_t, statistic, p_wilcoxon, effect, tuple(notes))


def corrected(p_values: Sequence[float | None], method: Correction = "holm") -> list[float | None]:
    """Correct p values for multiple comparisons; None stands for no test and stays None.

    - `bonferroni`: controls the family-wise error rate
    - `holm`: likewise, and never less powerful (Holm 1979, Scand. J. Stat. 6)
    - `benjamini-hochberg`: controls the false discovery rate, the expected fraction of false
      positives among all positives (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57)

    ValueError if a p value is not between 0 and 1.
    """
    tests = np.array([p for p in p_values if p is not None], dtype=float)
    n = len(tests)
    for p in tests:
        if not 0 <= p <= 1:
            raise ValueError(f"p values must lie between 0 and 1, got {p}")
    if method == "none" or n == 0:
        return list(p_values)
    order = np.argsort(tests)
    ascending = tests[order]
    if method == "bonferroni":
        ascending = n * ascending
    elif method == "holm":  # step-down: max over j <= i of (n - j + 1) p_(j)
        ascending = np.maximum.accumulate(np.arange(n, 0, -1) * ascending)
    else:  # step-up: min over j >= i of n / j p_(j)
        ascending = np.minimum.accumulate((n / np.arange(1, n + 1) * ascending)[::-1])[::-1]
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(ascending, 1.0)
    remaining = iter(adjusted.tolist())
    return [None if p is None else next(remaining) for p in p_values]


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties get their mean rank."""
    _, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[indices]
    return ranks


def _signed_rank(differences: np.ndarray) -> tuple[float | None, float | None]:
    """Wilcoxon's statistic min(W+, W-) and its two-sided p value; None if all differences are 0.

    Differences of 0 are dropped and ties get their mean rank (Wilcoxon 1945, Biometrics 1).
    """
    nonzero = differences[differences != 0]
    if len(nonzero) == 0:
        return None, None
    sizes = np.abs(nonzero)
    # rounded relative sizes, so that differences that are equal in exact arithmetic are ties
    ranks = _mean_ranks(np.round(sizes / sizes.max(), 9))
    positive = float(ranks[nonzero > 0].sum())
    statistic = min(positive, float(ranks.sum()) - positive)
    if len(nonzero) > 50:
        from scipy import stats  # here, because importing it takes a second

        return statistic, float(stats.wilcoxon(nonzero).pvalue)
    # Number of sign patterns for each value of W+, by dynamic programming over the ranks, which
    # are doubled, since the mean ranks of ties are multiples of 1/2.
    doubled = np.rint(2 * ranks).astype(int)
    counts = np.zeros(doubled.sum() + 1)
    counts[0] = 1.0
    for rank in doubled:
        counts[rank:] += counts[: len(counts) - rank].copy()
    tail = counts[: round(2 * statistic) + 1].sum() / counts.sum()
    return statistic, min(1.0, 2.0 * float(tail))


def _finite(values: Sequence[float]) -> np.ndarray:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or len(data) == 0:
        raise ValueError("statistics need at least one value")
    if not np.isfinite(data).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(data))) + 1} is not finite")
    return data
