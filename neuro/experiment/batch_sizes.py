"""Time and memory of one update, for mode=check; at several batch sizes with `check_batches`.

Updates are made on a copy of the model, with the optimizer, since its state takes memory, too.
Batches of other sizes are rows of the phase's first batch, cut or repeated. What compilation
(`hardware.compile`) changes is not measured.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from rich.table import Table

from neuro.experiment.assembly import Parts
from neuro.learning.step import TrainStep
from neuro.runtime.memory import (
    available_memory,
    described_bytes,
    peak_memory,
    reset_peak_memory,
    used_memory,
)
from neuro.training.phases import PhasePlan
from neuro.training.saving import is_out_of_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: factors of the batch size for check_batches=auto
_FACTORS = (0.5, 1, 2, 4)
#: seconds that an update may be expected to take, so that the table is quick
_LONGEST_S = 10.0


class Cost(NamedTuple):
    """Seconds of a micro-batch with an optimizer step, and the peak of memory in bytes.

    Memory is that of the GPU if there is one, else of the process; on systems other than Linux the
    latter includes all that came before.
    """

    seconds: float
    memory: int


def update_cost(parts: Parts, phase: PhasePlan, fabric: Fabric, samples: int | None = None) -> Cost:
    """Measure an update of a phase on a copy of the model, with so many samples per process.

    The second of two is timed, because the first one includes compilation and allocation.
    """
    step = TrainStep(*copy.deepcopy((parts.model, parts.objective))).to(fabric.device)
    step.model.set_phase(**phase.flags)
    for name, parameter in step.model.named_parameters():
        parameter.requires_grad_(not phase.frozen(name))
    optimizer = phase.optimizer(step.model.named_parameters())
    batch = next(phase.loader.batches(0))
    if samples is not None:
        batch = batch.rows(torch.arange(samples) % len(batch.targets))
    batch = batch.map(fabric.to_device)
    gc.collect()
    if on_gpu := fabric.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(fabric.device)
    else:
        reset_peak_memory()
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        with fabric.autocast():
            loss = step(batch).total
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return Cost(seconds, torch.cuda.max_memory_reserved(fabric.device) if on_gpu else peak_memory())


def batch_table(
    parts: Parts,
    phase: PhasePlan,
    fabric: Fabric,
    sizes: Sequence[int] | Literal["auto"],
    cost: Cost,
) -> Table:
    """The cost of an update of a phase by batch size, and what is left of the device's memory.

    `cost` is that of the config's batch size. A size that would take too long is not measured.
    """
    own, key = parts.data.batch_size, parts.data.batch_key
    if sizes == "auto":
        sizes = sorted({max(1, round(factor * own)) for factor in _FACTORS})
    tokens = parts.data.spec(phase.tasks[0]).tokens
    whole = _memory_of(fabric.device)
    table = Table(title=f"memory by batch size (phase {phase.name})")
    unit = "samples" if tokens is None else "tokens"
    columns = (f"data.{key}", "memory", "left", "s/update", f"{unit}/s")
    for column in columns:
        table.add_column(column, justify="right")
    known = own  # the size that `cost` belongs to
    for size in sizes:
        expected, ratio = cost.seconds * size / known, max(1.0, size / known)
        if expected > _LONGEST_S:
            table.add_row(str(size), "-", "-", f"about {expected:.0f}", "not measured")
            continue
        try:
            # a CPU's system rather ends a process than refuses memory to it
            if fabric.device.type == "cpu" and cost.memory * ratio > whole:
                raise MemoryError
            measured = update_cost(parts, phase, fabric, max(1, size // fabric.world_size))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            table.add_row(str(size), "does not fit", "-", "-", "-")
            continue
        cost, known = measured, size
        table.add_row(
            str(size),
            described_bytes(cost.memory),
            described_bytes(whole - cost.memory),
            f"{cost.seconds * parts.settings.accumulate:.3f}",
            f"{size * (tokens or 1) / cost.seconds:,.0f}",
        )
    return table


def _memory_of(device: torch.device) -> int:
    """Bytes that this process can use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return available_memory() + used_memory()
