"""`python -m neuro compare|runs`: tables of finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuro.errors import CheckpointError


def register(commands: Any) -> None:
    """Add `compare` and `runs`."""
    compare = commands.add_parser("compare", help="a table of runs, grouped over seeds")
    compare.add_argument("directories", nargs="+", type=Path, help="run or multirun directories")
    compare.add_argument("--markdown", action="store_true", help="print Markdown")
    compare.set_defaults(run=lambda a: show_comparison(a.directories, as_markdown=a.markdown))

    runs = commands.add_parser("runs", help="the runs below a directory and their status")
    runs.add_argument("directory", nargs="?", type=Path, default=Path("outputs"))
    runs.set_defaults(run=lambda a: show_runs(a.directory))


def show_comparison(directories: Sequence[Path], *, as_markdown: bool = False) -> None:
    """Print the comparison of all finished runs below the directories."""
    from neuro.analysis.compare import group_runs, markdown, table
    from neuro.analysis.runs import find_runs

    runs = [run for directory in directories for run in find_runs(directory)]
    groups = group_runs(runs)
    if not groups:
        raise CheckpointError(
            f"{', '.join(map(str, directories))}: no finished run in there "
            f"({len(runs)} unfinished)."
        )
    headings, rows = table(groups)
    if as_markdown:
        print(markdown(headings, rows))
    else:
        _print("mean ± 95 % confidence interval over seeds", headings, rows)
    unfinished = [run for run in runs if run.report is None]
    if unfinished:
        print(f"left out: {len(unfinished)} without a report ({unfinished[0].path} ...)")


def show_runs(directory: Path) -> None:
    """Print one line for each run, the newest last."""
    from neuro.analysis.runs import find_runs

    rows = []
    for run in sorted(find_runs(directory), key=lambda run: run.time):
        objective = (run.report or {}).get("objective")
        rows.append(
            [
                str(run.meta.get("started", ""))[:19].replace("T", " "),
                run.name,
                run.meta.get("mode", "train"),
                run.status,
                "-" if objective is None else f"{objective:.4f}",
                str(run.path),
            ]
        )
    if not rows:
        raise CheckpointError(f"{directory}: no runs in there.")
    _print(
        f"runs in {directory}",
        ["started", "name", "mode", "status", "objective", "directory"],
        rows,
    )


def _print(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # a file or a pipe has no width of its own
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
