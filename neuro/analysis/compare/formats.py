"""Output formats: a table for the terminal, in Markdown and LaTeX; a comparison as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from neuro.analysis.compare import configs
from neuro.analysis.compare.tables import Table

if TYPE_CHECKING:  # these import NumPy, which `neuro runs` must not load
    from neuro.analysis.compare.comparison import Comparison
    from neuro.analysis.compare.significance import BaselineTest, Significance
    from neuro.analysis.compare.statistics import MeanInterval

#: a CSV cell; None is written as an empty one
Cell = str | float | None

_TEST_COLUMNS = (
    "pairs",
    "difference",
    "t",
    "p_t",
    "p_t_corrected",
    "wilcoxon",
    "p_wilcoxon",
    "p_wilcoxon_corrected",
    "d_z",
    "hedges_g",
)

#: line width in characters if the output is not a terminal
_WIDTH = 160


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    marks = [" --- " if i < table.left else " ---: " for i in range(len(table.headings))]
    lines = ["|" + "|".join(marks) + "|"]
    for row in (table.headings, *table.rows):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    lines[0], lines[1] = lines[1], lines[0]
    return "\n".join(lines)


def terminal(table: Table) -> str:
    """The table with drawn borders, within the terminal's width."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(title=escape(table.title))
    for i, heading in enumerate(table.headings):
        drawn.add_column(
            escape(heading), justify="left" if i < table.left else "right", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip("\n")


def latex(table: Table) -> str:
    """The table in LaTeX, which needs the package booktabs; the title is the caption."""
    columns = "".join("l" if i < table.left else "r" for i in range(len(table.headings)))
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.title)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_latex_row(table.headings)}",
        r"    \midrule",
        *(f"    {_latex_row(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


#: replacements for LaTeX's special characters and for characters that its default fonts lack
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"$<$", ">": r"$>$", "µ": r"$\mu$", "|": r"$|$", '"': r"\textquotedbl{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Escape LaTeX's special characters."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def to_csv(
    comparison: Comparison,
    metrics: Sequence[str],
    significance: Significance | None = None,
) -> str:
    """CSV with one row for each configuration; fractions are 0 to 1, not percent.

    Columns: configuration, each differing config key, runs, seeds; for each metric mean, std,
    ci95_low, ci95_high and n; for each tested metric the results of `BaselineTest`.
    """
    tested = {} if significance is None else {(t.label, t.metric): t for t in significance.tests}
    rows = []
    for configuration in comparison.configurations:
        row: dict[str, Cell] = {"configuration": configuration.label}
        for key in comparison.differing:
            value = configuration.config.get(key, "")
            row[key] = "" if key not in configuration.config else configs.value_text(key, value)
        row |= {"runs": len(configuration.runs), "seeds": len(set(configuration.seeds))}
        for metric in metrics:
            row |= _interval_columns(metric, configuration.interval(metric))
        for metric in dict.fromkeys(metric for _, metric in tested):
            row |= _test_columns(metric, tested.get((configuration.label, metric)))
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _interval_columns(metric: str, interval: MeanInterval | None) -> dict[str, Cell]:
    return {
        f"{metric} mean": None if interval is None else interval.mean,
        f"{metric} std": None if interval is None else interval.std,
        f"{metric} ci95_low": None if interval is None else interval.low,
        f"{metric} ci95_high": None if interval is None else interval.high,
        f"{metric} n": 0 if interval is None else interval.n,
    }


def _test_columns(metric: str, test: BaselineTest | None) -> dict[str, Cell]:
    paired = None if test is None else test.paired
    values: dict[str, Cell] = dict.fromkeys(_TEST_COLUMNS)
    if test is not None and paired is not None:
        values = {
            "pairs": paired.difference.n,
            "difference": paired.difference.mean,
            "t": paired.t,
            "p_t": paired.p_t,
            "p_t_corrected": test.p_t_corrected,
            "wilcoxon": paired.wilcoxon,
            "p_wilcoxon": paired.p_wilcoxon,
            "p_wilcoxon_corrected": test.p_wilcoxon_corrected,
            "d_z": paired.effect_size,
            "hedges_g": paired.hedges_g,
        }
    return {f"{metric} {name}": values[name] for name in _TEST_COLUMNS}
