"""Tables and their output formats."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from neuro.analysis.compare.comparison import Comparison
from neuro.analysis.compare.formats import escape_latex, latex, markdown, terminal, to_csv
from neuro.analysis.compare.significance import against_baseline
from neuro.analysis.compare.statistics import mean_ci
from neuro.analysis.compare.tables import Table, p_text, significance_table, summary_table
from neuro.analysis.metrics import headings, number
from tests.analysis.helpers import compared, finish, gates

METRICS = ("test/accuracy", "continual/forgetting")


@pytest.fixture
def study(tmp_path: Path) -> Comparison:
    return compared(gates(tmp_path))


# -- contents -------------------------------------------------------------------------------------


def test_the_summary_has_mean_interval_and_deviation_in_percent(study: Comparison) -> None:
    table = summary_table(study, METRICS)
    assert table.headings == ("configuration", "runs", "accuracy, %", "forgetting, %")
    # t(0.975, 2) = 4.303, times 5 over the root of 3
    assert table.rows[0] == (
        "model.kind=variance",
        "3",
        "95.00 ± 12.42 (5.00)",
        "5.00 ± 12.42 (5.00)",
    )
    assert "95 % confidence interval (standard deviation)" in table.title


def test_deviations_that_are_not_in_the_name(tmp_path: Path) -> None:
    for name, gate in (("full", "variance"), ("other", "variance"), ("no_slow", "fixed")):
        config = {"model.kind": gate, "optimizer.lr": {"other": 0.5}.get(name, 0.1)}
        finish(tmp_path / name, {"test/accuracy": 0.5}, f"name={name}", config=config)
    found = compared(tmp_path)
    table = summary_table(found, METRICS[:1])
    assert table.headings[:3] == ("configuration", "differs in", "runs")
    assert {row[0]: row[1] for row in table.rows} == {
        "full": "-",
        "no_slow": "model.kind=fixed",
        "other": "optimizer.lr=0.5",
    }
    against_other = summary_table(found, METRICS[:1], found.find("other"))
    assert {row[0]: row[1] for row in against_other.rows}["full"] == "optimizer.lr=0.1"


def test_many_deviations_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        config: dict[str, Any] = {f"data.key{i}": f"{name}{i}" for i in range(6)}
        config["model"] = {"_target_": f"m.{name}"}
        finish(tmp_path / name, {"test/accuracy": 0.5}, f"model={name}", config=config)
    assert summary_table(compared(tmp_path), METRICS[:1]).rows[0][1] == (
        "model=a, data.key0=a0, data.key1=a1, 4 more"
    )


def test_cells_of_one_seed_of_few_and_of_none(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.5, "test/loss": 1234.5678}, seed=0)
    finish(tmp_path / "b", {"test/accuracy": 0.5}, seed=1)
    finish(tmp_path / "c", {"test/accuracy": 0.5}, seed=1)
    finish(tmp_path / "d", {"test/accuracy": 0.1}, "x=1", config={"x": 1})
    table = summary_table(compared(tmp_path), ("test/accuracy", "test/loss"))
    assert table.rows[0][-3:] == ("3 (2 seeds)", "50.00 ± 0.00 (0.00)", "1235 n=1")
    assert table.rows[1][-3:] == ("1", "10.00", "-")


def test_numbers_and_headings_are_short_and_unambiguous() -> None:
    assert [number(v) for v in (0.12345, 12345.6, 1e-7, 0.0)] == ["0.123", "12346", "1e-07", "0"]
    assert headings(["test/fast/accuracy", "test/loss", "val/loss", "hardware/cores"]) == {
        "test/fast/accuracy": "fast",
        "test/loss": "loss",
        "val/loss": "val/loss",
        "hardware/cores": "hardware/cores",
    }
    taken = headings(["test/fast", "test/fast/accuracy"])
    assert taken == {"test/fast": "test/fast", "test/fast/accuracy": "test/fast/accuracy"}
    assert [p_text(p) for p in (None, 0.00001, 0.0123, 0.456)] == ["-", "<0.0001", "0.0123", "0.46"]


def test_a_row_of_tests(study: Comparison) -> None:
    result = against_baseline(study.configurations[0], study.configurations, METRICS[:1], "holm")
    table = significance_table(result)
    assert "2 comparisons" in table.title and "test/accuracy" in table.title
    (test,) = (t for t in result.tests if t.label == "model.kind=learned")
    assert test.paired is not None
    differences = mean_ci([-0.1, -0.05, -0.15])
    assert table.rows[0] == (
        "model.kind=learned",
        "3",
        f"-10.00 ± {100 * (differences.half_width or 0):.2f} points",
        "-3.46",
        p_text(test.paired.p_t),
        p_text(test.p_t_corrected),
        "0",
        "0.25",
        p_text(test.p_wilcoxon_corrected),
        "-2.00",
        "-1.13",
    )
    plain = significance_table(
        against_baseline(study.configurations[0], study.configurations, METRICS, "none")
    )
    assert plain.headings[:2] == ("configuration", "metric") and plain.headings.count("p") == 2
    assert "corrected" not in plain.title
    assert all(len(row) == len(plain.headings) for row in plain.rows)


def test_the_reason_for_a_missing_test_fills_its_row(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.5}, "x=a", config={"x": "a"})
    finish(tmp_path / "b", {"test/loss": 0.5}, "x=b", config={"x": "b"})
    found = compared(tmp_path)
    for correction in ("holm", "none"):
        table = significance_table(
            against_baseline(found.configurations[0], found.configurations, METRICS[:1], correction)
        )
        assert table.rows[0][:2] == ("x=b", "0") and set(table.rows[0][2:]) == {"-"}
        assert len(table.rows[0]) == len(table.headings)


# -- formats --------------------------------------------------------------------------------------

SMALL = Table("a title", ("name", "x_1"), (("a|b", "5 %"), ("c", "-")))


def test_markdown() -> None:
    assert markdown(SMALL).splitlines() == [
        "| name | x_1 |",
        "| --- | ---: |",
        "| a\\|b | 5 % |",
        "| c | - |",
    ]


def test_brackets_are_not_markup_in_a_terminal() -> None:
    text = terminal(Table("t", ("name",), (("model.channels=[4,8]",),)))
    assert "model.channels=[4,8]" in text


def test_latex_uses_booktabs_and_escapes_characters() -> None:
    text = latex(Table("50 %", ("a_b", "x"), (("tau=[1] & #2", "1 ± 2"), ("{c}^~\\", "<0.1"))))
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert r"\begin{tabular}{lr}" in lines and r"\caption{50 \%}" in lines
    assert r"tau=[1] \& \#2 & 1 $\pm$ 2 \\" in lines
    assert r"\{c\}\textasciicircum{}\textasciitilde{}\textbackslash{} & $<$0.1 \\" in lines
    body = re.sub(r"\\[&%#_{}$]", "", text)  # without escaped characters
    assert not re.search(r"(?<!\\)[%#]", body)
    assert body.count("{") == body.count("}")
    rows = [line for line in lines if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == 1 for row in rows)


def test_text_without_special_characters_is_not_changed() -> None:
    assert escape_latex("accuracy (0.5) [a/b] 'x'") == "accuracy (0.5) [a/b] 'x'"


def test_csv_has_raw_numbers_and_all_differences(tmp_path: Path) -> None:
    found = compared(gates(tmp_path))
    result = against_baseline(found.configurations[0], found.configurations, METRICS[:1], "holm")
    rows = list(csv.DictReader(io.StringIO(to_csv(found, METRICS, result))))
    assert [row["model.kind"] for row in rows] == ["variance", "learned", "fixed"]
    interval = mean_ci([0.9, 0.95, 1.0])
    first = rows[0]
    assert (first["runs"], first["seeds"], first["test/accuracy n"]) == ("3", "3", "3")
    numbers = [float(first[f"test/accuracy {k}"]) for k in ("mean", "std", "ci95_low", "ci95_high")]
    assert numbers == pytest.approx([interval.mean, interval.std, interval.low, interval.high])
    assert first["test/accuracy p_t"] == ""  # the baseline itself
    test = result.tests[0].paired
    assert test is not None
    assert float(rows[1]["test/accuracy p_t"]) == pytest.approx(test.p_t)
    assert float(rows[1]["test/accuracy d_z"]) == pytest.approx(test.effect_size)
    assert float(rows[1]["test/accuracy p_wilcoxon_corrected"]) == pytest.approx(0.5)
