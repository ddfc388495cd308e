"""Tests against a baseline: pairs by seed, corrections, reasons for missing tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from neuro.analysis.compare.significance import against_baseline
from neuro.analysis.compare.statistics import corrected
from tests.analysis.helpers import compared, finish, gates


def test_pairs_are_of_the_same_seed(tmp_path: Path) -> None:
    """Runs are created in another order, and the baseline lacks one of the seeds."""
    for seed, (a, b) in {3: (0.9, 0.7), 1: (0.8, 0.75), 2: (0.85, 0.6), 0: (0.7, 0.65)}.items():
        finish(tmp_path / f"a{seed}", {"test/accuracy": a}, "x=a", seed=seed, config={"x": "a"})
        if seed > 0:
            metrics = {"test/accuracy": b}
            finish(tmp_path / f"b{seed}", metrics, "x=b", seed=seed, config={"x": "b"})
    found = compared(tmp_path)
    (test,) = against_baseline(
        found.find("x=b"), found.configurations, ["test/accuracy"], "none"
    ).tests
    t = stats.ttest_rel([0.8, 0.85, 0.9], [0.75, 0.6, 0.7])
    assert test.label == "x=a" and test.paired is not None
    assert test.paired.difference.n == 3
    assert test.paired.difference.mean == pytest.approx(0.5 / 3)
    assert (test.paired.t, test.paired.p_t) == pytest.approx((t.statistic, t.pvalue))


def test_p_values_are_corrected_over_all_tests_of_a_kind(tmp_path: Path) -> None:
    found = compared(gates(tmp_path))
    metrics = ["test/accuracy", "continual/forgetting"]
    holm = against_baseline(found.configurations[0], found.configurations, metrics, "holm")
    assert [(t.metric, t.label) for t in holm.tests] == [
        (metric, f"model.kind={gate}") for metric in metrics for gate in ("learned", "fixed")
    ]
    assert holm.comparisons() == 4
    plain = [t.paired.p_t for t in holm.tests if t.paired]
    assert [t.p_t_corrected for t in holm.tests] == corrected(plain, "holm")
    ranks = [t.paired.p_wilcoxon for t in holm.tests if t.paired]
    none = against_baseline(found.configurations[0], found.configurations, metrics, "bonferroni")
    assert [t.p_wilcoxon_corrected for t in none.tests] == corrected(ranks, "bonferroni")


def test_too_few_seeds_are_noted(tmp_path: Path) -> None:
    found = compared(gates(tmp_path))
    few = against_baseline(
        found.configurations[0], found.configurations, ["test/accuracy"], "holm"
    ).notes()
    assert few == [
        "all: Wilcoxon cannot reach p < 0.05 with 3 differing pairs (its smallest p is 0.25)"
    ]


def test_one_seed_and_no_common_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finish(tmp_path / name, {"test/accuracy": 0.5}, f"x={name}", seed=seed, config={"x": name})
    finish(tmp_path / "d", {"test/loss": 1.0}, "x=d", config={"x": "d"})
    found = compared(tmp_path)
    result = against_baseline(found.find("x=a"), found.configurations, ["test/accuracy"], "holm")
    assert result.notes() == [
        "x=b: one pair allows no test",
        "x=c: no seed in common with the baseline (seeds 1; of the baseline 0)",
        "x=d: test/accuracy was not measured",
    ]
    assert result.comparisons() == 0
    assert [test.p_t_corrected for test in result.tests] == [None] * 3


def test_seeds_of_two_kinds_are_both_named(tmp_path: Path) -> None:
    for name, split in (("a", 0), ("b", 1)):
        config = {"x": name, "data.split_seed": split}
        finish(tmp_path / name, {"test/accuracy": 0.5}, f"x={name}", config=config)
    found = compared(tmp_path)
    (note,) = against_baseline(
        found.find("x=a"), found.configurations, ["test/accuracy"], "holm"
    ).notes()
    assert "(seeds 1/0; of the baseline 0)" in note
