"""mode=opc: optimise masks that print the data's test masks (inverse lithography).

Optical proximity correction: the mask that prints a pattern best is not the pattern. The result is
compared with no correction, in which the mask is the target.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neuro.config.opc import OPCSettings
from neuro.data.base import DataSource
from neuro.data.simulated.imaging import ImagedMasks
from neuro.errors import ConfigError, DivergedError, Interrupted, nearest
from neuro.experiment.context import RunContext
from neuro.experiment.devices import pick_device
from neuro.experiment.experiment import Experiment
from neuro.io.files import replacing
from neuro.learning.inverse_lithography import MaskOptimiser, Measures, ProcessWindow, measure
from neuro.runs.directory import check_unused, keeping_status
from neuro.runs.naming import shown
from neuro.runs.report import Report
from neuro.runtime.output import record_printed
from neuro.runtime.signals import noting_signals
from neuro.tracking.base import RunInfo
from neuro.tracking.jsonl import JsonlTracker

log = logging.getLogger("neuro")

#: the measure that sweeps minimise
_SCORE = "l2_error_nm2"

#: headings of the table
_HEADINGS = {
    "l2_error_nm2": "L2, nm²",
    "pv_band_nm2": "PV band, nm²",
    "epe_nm": "EPE, nm",
    "vertices": "vertices",
}


def optimise_masks(experiment: Experiment, context: RunContext) -> float:
    """Optimise masks, print what they and the targets print, and return the mean squared L2 error.

    Writes the folders `masks` and `targets` (one .npy for each), plots/masks.png, metrics.jsonl and
    report.json, whose metrics are `test/...` with the optimised masks and `uncorrected/...`. A stop
    signal ends the optimisation early, and what there is is written.
    """
    directory, settings = context.directory, experiment.opc
    assert settings is not None
    check_unused(directory)
    data = experiment.data.instance
    _check_data(data, settings)
    assert isinstance(data, ImagedMasks)
    device = pick_device(experiment.hardware)
    data.prepare()
    targets = {
        task: _first_masks(data, task, settings.samples).to(device) for task in settings.tasks
    }
    process = ProcessWindow(
        data.optics,
        data.extent_nm,
        data.kernels,
        dose=settings.dose,
        defocus_nm=settings.defocus_nm,
        device=device,
    )
    meta = context.describe(experiment)
    with keeping_status(directory, experiment.plain(), meta):
        info = RunInfo(directory, meta["run_id"], experiment.name, experiment.project)
        started = time.perf_counter()
        optimiser = MaskOptimiser(
            torch.cat(list(targets.values())), process, settings, experiment.seed
        )
        with noting_signals(quiet=False) as interrupted:
            done = _run(optimiser, info, experiment.trainer.log.steps, interrupted)
        seconds = time.perf_counter() - started
        split = optimiser.masks().split([len(part) for part in targets.values()])
        masks = dict(zip(targets, split, strict=True))
        before, after = (
            _measured(of, targets, process, settings, data.pixel_nm) for of in (targets, masks)
        )
        for task, row in masks.items():
            _save(row, directory / "masks", task)
            _save(targets[task], directory / "targets", task)
        metrics = _named("test", after) | _named("uncorrected", before)
        report = Report(
            metrics=metrics,
            objective=metrics[f"test/{_SCORE}"],
            objective_metric=f"test/{_SCORE}",
            run_id=meta["run_id"],
            score=_SCORE,
            seconds=seconds,
        )
        report.save(directory)
        plot = _draw(masks, targets, process, settings, data.pixel_nm, directory / "plots")
        _show(before, after, len(optimiser.targets))
        for what, path in (("masks", directory / "masks"), ("plot", plot), ("run", directory)):
            log.info("%-6s %s", f"{what}:", shown(path))
        if done < settings.steps:
            raise Interrupted(f"Interrupted at update {done}; the masks of it were saved.")
    return metrics[f"test/{_SCORE}"]


def _check_data(data: DataSource, settings: OPCSettings) -> None:
    """ConfigError unless the data are masks with known optics and have the tasks."""
    if not isinstance(data, ImagedMasks):
        raise ConfigError(
            f"data: mode=opc needs masks and their optics, which {type(data).__name__} lacks; use "
            "data=lithography, litho_layout, or litho_masks data.path=MASK."
        )
    problems = [
        f"opc.tasks: the data have no {task!r}; there are {', '.join(data.tasks)}."
        + nearest(task, data.tasks)
        for task in settings.tasks
        if task not in data.tasks
    ]
    if problems:
        raise ConfigError(problems)


def _first_masks(data: DataSource, task: str, count: int) -> Tensor:
    """The first test masks of a task, `[N, H, W]`; grey pixels become 0 or 1."""
    batch = next(iter(data.loader(task, "test", batch_size=count).batches()))
    return (batch.inputs[:, 0, 0] > 0.5).float()


def _run(
    optimiser: MaskOptimiser, info: RunInfo, log_steps: int | None, interrupted: Callable[[], bool]
) -> int:
    """Make the updates and log their losses; returns their number, which a stop signal reduces."""
    tracker, total = JsonlTracker(), optimiser.settings.steps
    tracker.start(info, {})
    log.info("Optimising %d masks in %d updates", len(optimiser.targets), total)
    for step in range(1, total + 1):
        losses = optimiser.step()
        last = step == total or interrupted()
        if last or (log_steps is not None and step % log_steps == 0):
            values = {name: float(value) for name, value in losses.items()}
            tracker.log({f"train/{name}": value for name, value in values.items()}, step)
            shown_values = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            log.info("  update %d/%d  %s", step, total, shown_values)
            if not math.isfinite(values["loss"]):
                raise DivergedError("The loss is not finite; lower opc.lr or the weights of opc.")
        if last:
            break
    tracker.finish("completed")
    return step


def _measured(
    masks: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    process: ProcessWindow,
    settings: OPCSettings,
    pixel_nm: float,
) -> dict[str, Measures]:
    """The measures of each task, and of all masks together as task ''."""
    pairs = {task: (masks[task], targets[task]) for task in masks}
    pairs[""] = (torch.cat(list(masks.values())), torch.cat(list(targets.values())))
    return {
        task: measure(*pair, process, threshold=settings.threshold, pixel_nm=pixel_nm)
        for task, pair in pairs.items()
    }


def _named(prefix: str, measured: Mapping[str, Measures]) -> dict[str, float]:
    """`<prefix>/<task>/<measure>`, and `<prefix>/<measure>` of all tasks together."""
    return {
        "/".join(filter(None, (prefix, task, name))): value
        for task, found in measured.items()
        for name, value in found._asdict().items()
    }


def _save(masks: Tensor, folder: Path, task: str) -> None:
    """Write each mask as <folder>/<task>_<number>.npy, which data=litho_masks reads."""
    folder.mkdir(exist_ok=True)
    for number, mask in enumerate(masks.cpu().numpy()):
        with (
            replacing(folder / f"{task}_{number}.npy") as temporary,
            open(temporary, "wb") as handle,
        ):
            np.save(handle, mask)


@torch.no_grad()
def _draw(
    masks: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    process: ProcessWindow,
    settings: OPCSettings,
    pixel_nm: float,
    folder: Path,
) -> Path:
    """Draw the first mask of each task and what it prints, beside the target."""
    from neuro.analysis.plots import masks as plots
    from neuro.analysis.plots import style

    def printed(mask: Tensor) -> plots.Printed:
        images = process.images(mask[None])[:, 0].cpu().numpy()
        return plots.Printed(mask.cpu().numpy(), images)

    rows = [
        plots.Corrected(
            task, targets[task][0].cpu().numpy(), printed(targets[task][0]), printed(row[0])
        )
        for task, row in masks.items()
    ]
    figure = plots.corrections(rows, threshold=settings.threshold, pixel_nm=pixel_nm)
    return style.save(figure, folder / "masks.png")


def _show(before: Mapping[str, Measures], after: Mapping[str, Measures], count: int) -> None:
    """Print the measures of each task without correction and with it."""
    console = Console(highlight=False, record=True)
    table = Table(title=f"{count} masks: no correction → optimised", padding=(0, 0))
    table.add_column("task", no_wrap=True)
    for name in Measures._fields:
        table.add_column(_HEADINGS[name], justify="right")
    for task in after if len(after) > 2 else list(after)[:1]:  # one task is all of them together
        cells = (
            f"{_number(old)} → {_number(new)}"
            for old, new in zip(before[task], after[task], strict=True)
        )
        if not task:
            table.add_section()
        table.add_row(task or "together", *cells)
    console.print(table)
    record_printed(console.export_text())


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 1000 else f"{value:.3g}"
