"""Tables as text: for a terminal, Markdown and LaTeX; and a comparison as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

from neuro.analysis.compare.comparison import Comparison, configs
from neuro.analysis.compare.significance import GroupTest, Significance
from neuro.analysis.compare.statistics import MeanInterval
from neuro.analysis.compare.tables import Table

#: columns of a terminal where there is none
_WIDTH = 160


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown."""
    marks = [" --- " if i < table.left else " ---: " for i in range(len(table.headings))]
    lines = ["|" + "|".join(marks) + "|"]
    for row in (table.headings, *table.rows):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    lines[0], lines[1] = lines[1], lines[0]
    return "\n".join(lines)


def terminal(table: Table) -> str:
    """The table with lines around it, as wide as the terminal."""
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
    # a file or a pipe has no width of its own
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip("\n")


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs; the caption is its title."""
    columns = "".join("l" if i < table.left else "r" for i in range(len(table.headings)))
    lines = [
        r"\begin{table}", r"  \centering", rf"  \caption{{{escape_latex(table.title)}}}",
        rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule", f"    {_latex_row(table.headings)}",
        r"    \midrule", *(f"    {_latex_row(row)}" for row in table.rows), r"    \bottomrule",
        r"  \end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


#: characters that LaTeX reads as commands, and those that its fonts lack
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"$<$", ">": r"$>$", "µ": r"$\mu$", "|": r"$|$", '"': r"\textquotedbl{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it, whatever characters are in it."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def to_csv(
    comparison: Comparison,
    metrics: Sequence[str],
    significance: Significance | None = None,
) -> str:
    """One row for each configuration, numbers as they are (fractions, no percent).

    Columns: configuration, each config key that differs, runs, seeds; for each metric mean, std,
    ci95_low, ci95_high and n; for each tested metric what the test found.
    """
    tested = {} if significance is None else {(t.label, t.metric): t for t in significance.tests}
    rows = []
    for group in comparison.groups:
        row: dict[str, Any] = {"configuration": group.label}
        for key in comparison.differing:
            value = group.config.get(key, "")
            row[key] = "" if key not in group.config else configs.value_text(key, value)
        row |= {"runs": len(group.members), "seeds": len(set(group.seeds))}
        for metric in metrics:
            row |= _interval_columns(metric, group.interval(metric))
        for metric in dict.fromkeys(metric for _, metric in tested):
            row |= _test_columns(metric, tested.get((group.label, metric)))
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _interval_columns(metric: str, interval: MeanInterval | None) -> dict[str, Any]:
    found = (
        ("", "", "", "", 0)
        if interval is None
        else (interval.mean, interval.std, interval.low, interval.high, interval.n)
    )
    return {
        f"{metric} {name}": value
        for name, value in zip(("mean", "std", "ci95_low", "ci95_high", "n"), found, strict=True)
    }


def _test_columns(metric: str, test: GroupTest | None) -> dict[str, Any]:
    paired = None if test is None else test.paired
    names = (
        "pairs", "difference", "t", "p_t", "p_t_corrected", "wilcoxon", "p_wilcoxon",
        "p_wilcoxon_corrected", "d_z", "hedges_g",
    )  # fmt: skip
    if test is None or paired is None:
        return {f"{metric} {name}": "" for name in names}
    found = (
        paired.difference.n, paired.difference.mean, paired.t, paired.p_t, test.p_t_corrected,
        paired.wilcoxon, paired.p_wilcoxon, test.p_wilcoxon_corrected, paired.effect_size,
        paired.hedges_g,
    )  # fmt: skip
    return {f"{metric} {name}": value for name, value in zip(names, found, strict=True)}
