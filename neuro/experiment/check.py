"""mode=check: describe the run of a config without training.

The config is validated and its objects are built as for training; then one update of each phase is
timed on a copy of the model, and the learning rate is plotted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from neuro.experiment.assembly import Parts, assemble
from neuro.experiment.batch_sizes import Cost, batch_table, update_cost
from neuro.experiment.context import RunContext
from neuro.experiment.devices import make_fabric
from neuro.experiment.experiment import Experiment
from neuro.models.base import CoreModel
from neuro.models.capabilities import Connected, Connection
from neuro.runs.directory import check_unused
from neuro.runs.naming import shown
from neuro.runtime.memory import described_bytes
from neuro.training.phases import PhasePlan
from neuro.training.schedules import FeedbackSchedule

#: points of a phase in the plot of the learning rate, at most
_DRAWN = 5000


def check(experiment: Experiment, context: RunContext) -> None:
    """Print the model, data and phases, and estimate time and memory of training.

    Writes network.png and schedule.png to `plots` of the run's directory.
    """
    check_unused(context.directory)
    parts = assemble(experiment, 0, experiment.hardware.count)
    fabric = make_fabric(experiment.hardware)
    plots = context.directory / "plots"
    costs = {phase.name: update_cost(parts, phase, fabric) for phase in parts.plan}
    seconds = {name: cost.seconds * parts.settings.accumulate for name, cost in costs.items()}
    console = Console(highlight=False)
    console.print(f"The config is valid. Device: {fabric.device}, {experiment.hardware.precision}")
    for note in parts.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    console.print(_model_table(parts.model))
    connections = parts.model.connections() if isinstance(parts.model, Connected) else ()
    if connections:
        console.print(_connection_table(connections))
        path = _draw_network(parts.model, connections, plots / "network.png")
        console.print(f"network: {shown(path)}", soft_wrap=True)
    console.print(_data_table(parts))
    console.print(_phase_table(parts, seconds))
    total = sum(seconds[phase.name] * phase.total_steps for phase in parts.plan)
    console.print(
        f"Expected: about {_duration(total)} for {sum(p.total_steps for p in parts.plan)} updates "
        f"(without validation and tests), {_memory(costs.values(), fabric.device)}; "
        f"a checkpoint takes about {_megabytes(parts.model):.1f} MB. Nothing was trained."
    )
    if experiment.check_batches is not None:
        slowest = max(parts.plan, key=lambda phase: seconds[phase.name])
        sizes, cost = experiment.check_batches, costs[slowest.name]
        console.print(batch_table(parts, slowest, fabric, sizes, cost))
    path = _draw_schedule(parts, plots / "schedule.png")
    console.print(f"schedule: {shown(path)}", soft_wrap=True)
    if experiment.repeats > 1:
        times = experiment.repeats
        console.print(f"repeats={times}: training runs {times} times, each with its own seed.")


def _model_table(model: CoreModel) -> Table:
    table = Table(title=f"model: {type(model).__name__}")
    for column in ("module", "kind", "parameters", "buffers"):
        table.add_column(column, justify="left" if column in ("module", "kind") else "right")
    for name, module in model.named_modules():
        own_parameters = sum(p.numel() for p in module.parameters(recurse=False))
        own_buffers = sum(b.numel() for b in module.buffers(recurse=False))
        if own_parameters or own_buffers:
            table.add_row(
                name or "(itself)", _kind(module), f"{own_parameters:,}", f"{own_buffers:,}"
            )
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for b in model.buffers())
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", f"{buffers:,}")
    return table


def _kind(module: nn.Module) -> str:
    text = repr(module)
    return text if "\n" not in text and len(text) < 60 else type(module).__name__


def _connection_table(connections: Sequence[Connection]) -> Table:
    table = Table(title="connections")
    for column in ("from", "to", "weights", "of all pairs", "least", "greatest"):
        table.add_column(column, justify="left" if column in ("from", "to") else "right")
    for connection in connections:
        existing = connection.weight.detach()[connection.existing()]
        table.add_row(
            connection.source,
            connection.target,
            f"{existing.numel():,}",
            f"{100 * existing.numel() / connection.weight.numel():.3g} %",
            f"{float(existing.min()):.3g}",
            f"{float(existing.max()):.3g}",
        )
    return table


@torch.no_grad()
def _draw_network(model: CoreModel, connections: Sequence[Connection], path: Path) -> Path:
    """Draw the layers that connections lead to and from, and the weight matrices."""
    from neuro.analysis.plots import network as network_plots
    from neuro.analysis.plots import style

    nodes = {c.source: c.weight.shape[1] for c in connections} | {
        c.target: c.weight.shape[0] for c in connections
    }
    modules = {name.removeprefix("layers."): m for name, m in model.named_modules()}
    layers = {
        name: network_plots.PlottedLayer(type(module).__name__, nodes[name])
        for name, module in modules.items()
        if name in nodes
    }
    matrices = [
        network_plots.PlottedConnection(
            c.source, c.target, c.weight.masked_fill(~c.existing(), float("nan")).cpu().numpy()
        )
        for c in connections
    ]
    figure = network_plots.network(layers, matrices, f"{type(model).__name__} before training")
    return style.save(figure, path)


def _data_table(parts: Parts) -> Table:
    table = Table(title=f"data: {type(parts.data).__name__}")
    for column in ("task", "samples (train / val / test)", "frames x dt", "input", "classes"):
        table.add_column(column)
    for task in dict.fromkeys(t for p in parts.plan for t in (*p.tasks, *p.evaluate)):
        spec = parts.data.spec(task)
        splits = (parts.data.loader(task, split).samples for split in ("train", "val", "test"))
        table.add_row(
            task,
            " / ".join(map(str, splits)),
            spec.described_timings,
            "x".join(map(str, spec.inputs.shape)) or "symbols",
            ", ".join(map(str, spec.classes)),
        )
    return table


def _phase_table(parts: Parts, seconds: Mapping[str, float]) -> Table:
    table = Table(title="phases")
    for column in ("phase", "task", "epochs", "updates", "rate: first, peak, last", "s/update"):
        table.add_column(column, justify="left" if column in ("phase", "task") else "right")
    for phase in parts.plan:
        _, rates = _rates(phase)
        shown = ", ".join(f"{rate:.2g}" for rate in (rates[0], max(rates), rates[-1]))
        if phase.optimizer.auto:
            shown = f"auto x ({shown})"
        table.add_row(
            phase.name,
            phase.task,
            str(phase.epochs),
            str(phase.total_steps),
            shown,
            f"{seconds[phase.name]:.3f}",
        )
    return table


def _rates(phase: PhasePlan) -> tuple[list[int], list[float]]:
    """Steps of a phase, at most `_DRAWN`, and the learning rate at each of them.

    With lr=auto the values are factors of the rate that will be found. Schedules that react to
    validations are evaluated without any reaction.
    """
    stride = max(1, phase.total_steps // _DRAWN)
    steps = sorted({*range(0, phase.total_steps, stride), phase.total_steps - 1})
    return steps, [phase.optimizer.lr * phase.schedule.factor(s, phase.span) for s in steps]


def _draw_schedule(parts: Parts, path: Path) -> Path:
    """Plot the learning rate over all phases."""
    from neuro.analysis.plots import style
    from neuro.analysis.plots import training as plots

    steps: list[int] = []
    rates: list[float] = []
    starts: list[tuple[str, int]] = []
    begin = 0
    for phase in parts.plan:
        starts.append((phase.name, begin))
        found, values = _rates(phase)
        steps += [begin + step for step in found]
        rates += values
        begin += phase.total_steps
    title = "Learning rate"
    if any(phase.optimizer.auto for phase in parts.plan):
        title += " as a multiple of the one found where lr=auto"
    watched = [p.schedule.monitor for p in parts.plan if isinstance(p.schedule, FeedbackSchedule)]
    if watched:
        names = dict.fromkeys(name or parts.settings.monitor for name in watched)
        title += f" before {' and '.join(names)} changes it"
    return style.save(plots.schedule(steps, rates, starts, title), path)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _memory(costs: Iterable[Cost], device: torch.device) -> str:
    """Peak memory of the timed updates, as an estimate of what training needs."""
    peak = max(cost.memory for cost in costs)
    return f"{described_bytes(peak)} of {'GPU ' if device.type == 'cuda' else ''}memory"


def _megabytes(model: CoreModel) -> float:
    tensors = (*model.parameters(), *model.buffers())
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6
