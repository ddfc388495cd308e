"""What a finished run prints: its results as a table, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show(report: Mapping[str, Any], directory: Path) -> None:
    """Print a report's results; fractions become percent here and nowhere else."""
    console = Console(highlight=False)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    console.print()
    console.print(_table(report))
    continual = report.get("continual")
    if continual:
        parts = [
            f"{label} {_percent(continual[key])}"
            for key, label in (
                ("acc", "final accuracy"), ("forgetting", "forgetting"),
                ("bwt", "backward transfer"), ("fwt", "forward transfer"),
            )
            if continual[key] is not None
        ]  # fmt: skip
        console.print("  ".join(parts), soft_wrap=True)
    if report["objective"] is not None:
        console.print(f"{report['objective_metric']}: {report['objective']:.4f}   (the objective)")
    if "hardware" in report:
        console.print(f"evaluated on: {report['hardware']['backend']}")
    console.print(f"run:   {directory}", soft_wrap=True)
    if (directory / "plots").is_dir():
        console.print(f"plots: {directory / 'plots'}", soft_wrap=True)


def _table(report: Mapping[str, Any]) -> Table:
    """Test accuracy on each task, after each phase of a training run."""
    rows = report.get("phases") or [
        {"name": Path(report["evaluated"]).stem, "test": _by_task(report["metrics"])}
    ]
    tasks = list(dict.fromkeys(task for row in rows for task in row["test"]))
    table = Table(title="test accuracy")
    table.add_column("after" if "phases" in report else "checkpoint")
    for task in tasks:
        table.add_column(task, justify="right")
    for row in rows:
        cells = (row["test"].get(task, {}).get("accuracy") for task in tasks)
        table.add_row(row["name"], *map(_percent, cells))
    return table


def _by_task(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    tasks: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "test":
            tasks.setdefault(parts[1], {})[parts[2]] = value
    return tasks


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
