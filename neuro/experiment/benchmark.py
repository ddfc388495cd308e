"""mode=benchmark: latency, throughput and memory of a finished run's model, by batch and length."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neuro.config.experiment import BenchmarkSettings
from neuro.data.base import Batch
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import Finished, open_finished
from neuro.io.files import write_json
from neuro.runs.directory import keeping_status
from neuro.runtime.memory import described_bytes, peak_memory, reset_peak_memory
from neuro.runtime.output import record_printed

log = logging.getLogger("neuro")

#: name of the file of results in the run's directory
FILE = "benchmark.json"


@dataclass(frozen=True)
class Timing:
    """Forward passes of one size: median time, sequences and steps per second, peak memory.

    Memory is that of the GPU if there is one, else of the process, in bytes.
    """

    batch: int
    steps: int
    ms: float
    sequences_per_s: float
    steps_per_s: float
    memory: int


def benchmark(experiment: Experiment, context: RunContext) -> None:
    """Print a table, and write benchmark.json to a new run directory."""
    meta = context.describe(experiment)
    parts = open_finished(experiment, context.directory)
    with keeping_status(context.directory, experiment.plain(), meta):
        found = measure(parts, experiment.benchmark)
        write_json(context.directory / FILE, [asdict(timing) for timing in found])
    console = Console(highlight=False, record=True)
    console.print(_table(parts, found))
    record_printed(console.export_text())
    log.info("Benchmark of %s: %s", parts.checkpoint, context.directory / FILE)


def measure(parts: Finished, settings: BenchmarkSettings) -> list[Timing]:
    """Time the model on inputs of its first test batch, cut or repeated to each size."""
    batch = next(iter(parts.data.loader(parts.tasks[0], "test").batches()))
    own = batch.steps
    lengths = settings.steps
    if lengths == "auto":
        lengths = (1,) if own == 1 else tuple(sorted({max(1, own // 2), own, 2 * own}))
    parts.model.eval()
    return [
        _timing(parts, batch, size, steps, settings.repeats)
        for size in settings.batches
        for steps in lengths
    ]


@torch.inference_mode()
def _timing(parts: Finished, batch: Batch, size: int, steps: int, repeats: int) -> Timing:
    rows = torch.arange(size) % len(batch.targets)
    inputs = batch.rows(rows).sequence()
    inputs = inputs[:, torch.arange(steps) % inputs.shape[1]].contiguous().to(parts.device)
    on_gpu = parts.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(parts.device)
    else:
        reset_peak_memory()
    seconds = [_seconds(parts, inputs, batch.dt_ms) for _ in range(repeats + 1)]
    median = statistics.median(seconds[1:])  # the first one includes compilation
    memory = torch.cuda.max_memory_allocated(parts.device) if on_gpu else peak_memory()
    return Timing(size, steps, 1e3 * median, size / median, size * steps / median, memory)


def _seconds(parts: Finished, inputs: Tensor, dt_ms: float | None) -> float:
    """Duration of a forward pass from the initial state."""
    started = time.perf_counter()
    parts.model(inputs, dt_ms=dt_ms)
    if parts.device.type == "cuda":
        torch.cuda.synchronize(parts.device)
    return time.perf_counter() - started


def _table(parts: Finished, found: list[Timing]) -> Table:
    table = Table(title=f"{type(parts.model).__name__} on {parts.device}, forward passes")
    unit = "tokens/s" if parts.spec.tokens is not None else "steps/s"
    for column in ("batch", "steps", "ms", "ms per sequence", "sequences/s", unit, "memory"):
        table.add_column(column, justify="right")
    for timing in found:
        table.add_row(
            str(timing.batch),
            str(timing.steps),
            f"{timing.ms:.3g}",
            f"{timing.ms / timing.batch:.3g}",
            f"{timing.sequences_per_s:,.0f}",
            f"{timing.steps_per_s:,.0f}",
            described_bytes(timing.memory),
        )
    return table
