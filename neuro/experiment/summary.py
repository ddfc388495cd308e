"""The terminal output at the end of a run: tables of results, and where its files are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neuro.analysis.metrics import is_fraction
from neuro.runs.naming import shown
from neuro.runs.report import Continual, Criterion, Report
from neuro.runtime.output import record_printed


def show(report: Report, directory: Path) -> None:
    """Print a report's results. Only here are fractions shown as percent."""
    console = Console(highlight=False, record=True)
    directory = shown(directory)
    console.print()
    for table in _tables(report):
        console.print(table)
    if report.continual is not None:
        console.print("  ".join(_measures(report.continual, report.score)), soft_wrap=True)
    if report.objective is not None:
        digits = ".4f" if abs(report.objective) >= 0.01 or not report.objective else ".4g"
        console.print(f"{report.objective_metric}: {report.objective:{digits}}   (the objective)")
    if report.criteria:
        console.print(_verdict(report.criteria))
    if report.hardware:
        _show_hardware(console, report.hardware)
    console.print(f"run:   {directory}", soft_wrap=True)
    if (directory / "plots").is_dir():
        console.print(f"plots: {directory / 'plots'}", soft_wrap=True)
    record_printed(console.export_text())


def _verdict(criteria: Sequence[Criterion]) -> Table:
    """A row for each criterion of the run, with the verdict of all in the title."""
    met = all(criterion.met for criterion in criteria)
    table = Table(title=f"verdict: {'all' if met else 'not all'} criteria are met")
    table.add_column("criterion", overflow="fold")
    for heading in ("found", "required", "met"):
        table.add_column(heading, justify="right")
    for criterion in criteria:
        required = f"{criterion.relation} {criterion.limit:.4g}"
        met_text = "yes" if criterion.met else "no"
        table.add_row(criterion.name, f"{criterion.value:.4g}", required, met_text)
    return table


def in_words(metric: str, value: float | None) -> str:
    """A metric's value for the terminal: fractions in percent."""
    return _percent(value) if is_fraction(metric) else _number(value)


def _measures(continual: Continual, score: str) -> list[str]:
    """The continual measures that apply, as words."""
    named = {
        f"final {score}": continual.acc,
        "forgetting": continual.forgetting,
        "backward transfer": continual.bwt,
        "forward transfer": continual.fwt,
    }
    return [f"{name} {in_words(score, v)}" for name, v in named.items() if v is not None]


def _metrics(report: Report) -> list[str]:
    """The metrics of the objective, the deciding one first."""
    rows = [row for phase in report.phases for row in phase.test.values()]
    measured = [*rows, *report.tested.values()][0]
    score = report.score or "accuracy"
    return [score, *(name for name in measured if name not in (score, "loss"))]


def _tables(report: Report) -> Iterator[Table]:
    """Test metrics by task: after each phase of training, of an evaluated checkpoint, or of each
    member of an ensemble and of the ensemble.

    Several metrics of one row are one table, with a row for each task.
    """
    first, rows = "after", [(phase.name, phase.test) for phase in report.phases]
    if isinstance(report.evaluated, str):
        first, rows = "checkpoint", [(Path(report.evaluated).stem, report.tested)]
    if report.members:
        first, rows = "run", [(member.run, member.tested) for member in report.members]
        rows.append(("together", report.tested))
    tasks = list(dict.fromkeys(task for _, row in rows for task in row))
    metrics = _metrics(report)
    if len(rows) == 1 and len(metrics) > 1:
        (name, found), *_ = rows
        yield _one_table(f"test, {first} {name}", tasks, metrics, found)
        return
    for metric in metrics:
        table = Table(title=f"test {metric}")
        table.add_column(first, overflow="fold")
        for task in tasks:
            table.add_column(task, justify="right")
        for number, (name, row) in enumerate(rows, 1):
            cells = (in_words(metric, row.get(task, {}).get(metric)) for task in tasks)
            table.add_row(name, *cells, end_section=number == len(report.members))
        yield table


def _one_table(
    title: str,
    tasks: Sequence[str],
    metrics: Sequence[str],
    found: Mapping[str, Mapping[str, float]],
) -> Table:
    """A row for each task, a column for each metric."""
    table = Table(title=title, padding=(0, 0))
    table.add_column("task", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right")
    for task in tasks:
        table.add_row(task, *(in_words(metric, found[task].get(metric)) for metric in metrics))
    return table


def _show_hardware(console: Console, hardware: Mapping[str, Any]) -> None:
    """Print the backend; for a chip's arithmetic also agreement with the float model and costs."""
    if "accuracies" in hardware:
        console.print(_chip_table(hardware))
        mapping = hardware["mapping"]
        cores = mapping["chips"] * mapping["limits"]["cores_per_chip"]["value"]
        console.print(f"cores: {mapping['cores']} of {cores} (a lower bound, see docs/loihi2.md)")
        for task, estimate in hardware["estimate"].items():
            console.print(
                f"{task}: per inference {_span(estimate['energy_uj'], 'mJ')}, "
                f"{_span(estimate['latency_us'], 'ms')} (estimated, static power included)",
                soft_wrap=True,
            )
    console.print(f"evaluated on: {hardware['backend']}", soft_wrap=True)


def _chip_table(hardware: Mapping[str, Any]) -> Table:
    """Accuracy of each implementation of the network, and agreement between them."""
    tasks = list(hardware["accuracies"])
    table = Table(title="on the chip's arithmetic")
    table.add_column("")
    for task in tasks:
        table.add_column(task, justify="right")
    for way in dict.fromkeys(way for found in hardware["accuracies"].values() for way in found):
        samples = [hardware["samples"][task].get(way) for task in tasks]
        suffix = f" ({'/'.join(map(str, samples))} samples)" if way == "lava" else ""
        cells = (hardware["accuracies"][task].get(way) for task in tasks)
        table.add_row(f"accuracy, {_WAYS[way]}{suffix}", *map(_percent, cells))
    engine = {task: found["engine"] for task, found in hardware["scores_by_way"].items()}
    for metric in next(iter(engine.values())).keys() - {"accuracy"}:
        cells = (engine[task][metric] for task in tasks)
        table.add_row(
            f"{metric}, {_WAYS['engine']}",
            *map(_percent if is_fraction(metric) else _number, cells),
        )
    table.add_section()
    for name, label in (
        ("engine_with_model", "engine as the trained model"),
        ("lava_with_engine", "Lava as the engine"),
    ):
        found = [hardware["agreement"][task].get(name) for task in tasks]
        if any(found):
            shares = [None if pair is None else pair["predictions"] for pair in found]
            table.add_row(f"equal decisions, {label}", *map(_percent, shares))
            shares = [None if pair is None else min(pair["spikes"].values()) for pair in found]
            table.add_row(f"equal spikes (worst layer), {label}", *map(_percent, shares))
    return table


_WAYS = {
    "model": "trained model",
    "rounded": "rounded parameters in float",
    "engine": "integer engine",
    "lava": "Lava",
}


def _span(values: Sequence[float], unit: str) -> str:
    """A range given in thousandths of the unit."""
    low, high = (value / 1e3 for value in values)
    return f"{low:.3g} to {high:.3g} {unit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
