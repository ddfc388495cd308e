"""`python -m neuro info`: architecture, parameters by part, state and costs of a saved model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuro.errors import CheckpointError

if TYPE_CHECKING:
    from neuro.data.base import TaskSpec
    from neuro.models.base import CoreModel
    from neuro.models.file import StoredModel

#: names of parameters are shown up to this many parts, as in `blocks.0`
_DEPTH = 3


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `info`."""
    info = commands.add_parser("info", help="describe the model of a run, or of a model file")
    info.add_argument("path", type=Path, help="directory of a run, or a model.safetensors")
    info.set_defaults(run=lambda a: show_info(a.path))


def show_info(path: Path) -> None:
    """Print the description of a model. CheckpointError if there is none at `path`."""
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise CheckpointError(
            f"{path}: has no model.safetensors, which a run writes at its end. Give a run that has "
            "ended, or a model file."
        )
    from rich.console import Console
    from rich.table import Table

    from neuro.models import load
    from neuro.models.file import read
    from neuro.models.state import named_tensors

    stored = read(file)
    console = Console(highlight=False)
    console.print(f"{file}", soft_wrap=True)
    for line in _described(stored):
        console.print(line, soft_wrap=True)
    table = Table(title="parameters and buffers by part")
    for column in ("part", "tensors", "numbers", "KiB"):
        table.add_column(column, justify="left" if column == "part" else "right")
    parts = by_part(stored)
    for name, (tensors, numbers, size) in parts.items():
        table.add_row(name, f"{tensors}", f"{numbers:,}", f"{size / 1024:,.1f}")
    table.add_section()
    total = [sum(column) for column in zip(*parts.values(), strict=True)]
    table.add_row("total", f"{total[0]}", f"{total[1]:,}", f"{total[2] / 1024:,.1f}")
    console.print(table)
    model = load(file)
    state = named_tensors(model.initial_state(1)).values()
    console.print(
        f"state of a sequence: {sum(t.numel() for t in state):,} numbers, "
        f"{sum(t.numel() * t.element_size() for t in state) / 1024:,.1f} KiB"
    )
    frames, dt_ms = stored.spec.timings[0]
    ms = forward_ms(model, stored.spec, frames, dt_ms)
    console.print(f"a sequence of {frames} steps: {ms:.3g} ms on this machine's CPU")
    if (run := file.parent / "report.json").is_file() and path.is_dir():
        from neuro.runs.report import Report

        report = Report.load(run.parent)
        if report.objective is not None:
            console.print(f"{report.objective_metric}: {report.objective:.4g}")


def forward_ms(model: CoreModel, spec: TaskSpec, frames: int, dt_ms: float | None) -> float:
    """Time of one sequence of zeros, the second of two: the first one includes compilation."""
    import torch

    kind = torch.int64 if spec.inputs.dtype == "int" else torch.float32
    inputs = torch.zeros(1, frames, *spec.inputs.shape, dtype=kind)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.inference_mode():
            model(inputs, dt_ms=dt_ms)
        seconds = time.perf_counter() - started
    return 1e3 * seconds


def by_part(stored: StoredModel) -> dict[str, tuple[int, int, int]]:
    """Tensors, numbers and bytes by the first parts of their names, in the order of the file."""
    parts: dict[str, tuple[int, int, int]] = {}
    for name, tensor in stored.weights.items():
        *above, _ = name.split(".")
        part = ".".join(above[:_DEPTH]) or "(itself)"
        tensors, numbers, size = parts.get(part, (0, 0, 0))
        own = tensor.numel()
        parts[part] = tensors + 1, numbers + own, size + own * tensor.element_size()
    return parts


def _described(stored: StoredModel) -> list[str]:
    """Class, settings and task, one per line."""
    settings = {key: value for key, value in stored.node.items() if key != "_target_"}
    spec = stored.spec
    inputs = spec.inputs
    shape = f"symbols, {inputs.vocabulary} of them" if inputs.dtype == "int" else list(inputs.shape)
    return [
        f"model: {stored.node['_target_']}",
        *(f"  {key}: {_short(value)}" for key, value in settings.items()),
        f"task: {spec.task}; inputs of a step: {shape}; {spec.described_timings}",
        f"targets: {spec.targets.kind}, {spec.outputs} outputs",
    ]


def _short(value: Any) -> str:
    """A setting on one line; of a component, its class and settings."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}: {_short(v)}" for k, v in value.items() if k != "_target_")
        name = str(value.get("_target_", "")).rpartition(".")[2]
        return f"{name}({inner})" if name else f"{{{inner}}}"
    return "null" if value is None else str(value)
