"""mode=predict: write outputs and decisions of a finished run as a table, or images as arrays."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import h5py
import torch
from torch import Tensor

from neuro.data.base import TaskSpec
from neuro.data.uses import TargetKind
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import Finished, open_finished
from neuro.io.files import replacing
from neuro.learning.evaluation import Predictions
from neuro.learning.evaluation import predict as predictions
from neuro.learning.metrics import CLASS_KINDS
from neuro.runs.directory import keeping_status

log = logging.getLogger("neuro")


class Drawn(NamedTuple):
    """Samples that are drawn: inputs `[N, 1, C, H, W]`, targets and outputs `[N, C, H, W]`."""

    inputs: Tensor
    targets: Tensor
    outputs: Tensor


def predict(experiment: Experiment, context: RunContext) -> None:
    """Write outputs and decisions for every test sample, or step of it, to predictions.csv.

    Images are written to predictions.h5 (`<task>/prediction` and `<task>/target`, `[N, ...]`), and
    the first ones drawn in predictions.png.
    """
    meta = context.describe(experiment)
    parts = open_finished(experiment, context.directory)
    images = parts.spec.targets.kind == "image"
    target = context.directory / ("predictions.h5" if images else "predictions.csv")
    with (
        keeping_status(context.directory, experiment.plain(), meta),
        replacing(target) as temporary,
    ):
        if images:
            drawn = _write_images(parts, temporary)
        else:
            _write_table(parts, temporary)
    if images and len(parts.spec.inputs.shape) == 3:
        _draw(drawn, context.directory / "predictions.png")
    log.info("Predictions of %s: %s", parts.checkpoint, target)


def _write_images(parts: Finished, path: Path) -> dict[str, Drawn]:
    """Write all images; returns the first ones of each task."""
    drawn = {}
    each = max(1, _DRAWN // len(parts.tasks))
    with h5py.File(path, "w") as file:
        for task in parts.tasks:
            loader = parts.data.loader(task, "test")
            found = predictions(parts.model, parts.objective, loader, parts.device, parts.streams())
            outputs = found.outputs.float()
            file[f"{task}/prediction"] = outputs.numpy()
            file[f"{task}/target"] = found.targets.numpy()
            inputs = next(iter(loader.batches())).inputs
            drawn[task] = Drawn(inputs[:each], found.targets[:each], outputs[:each])
    return drawn


def _draw(drawn: Mapping[str, Drawn], path: Path) -> None:
    """Draw inputs, targets and outputs of some samples of each task."""
    from neuro.analysis.plots import images, style

    samples = [
        images.Sample(f"{task}, {i}", *(image.float().numpy() for image in row))
        for task, (inputs, targets, outputs) in drawn.items()
        for i, row in enumerate(zip(inputs[:, 0, 0], targets[:, 0], outputs[:, 0], strict=False))
    ]
    style.save(images.predictions(samples, title="Test samples"), path)


def _write_table(parts: Finished, path: Path) -> None:
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle)
        place = _PLACES.get(parts.spec.targets.kind)
        writer.writerow(["task", *_columns(parts.spec, place)])
        for task in parts.tasks:
            loader = parts.data.loader(task, "test")
            found = predictions(parts.model, parts.objective, loader, parts.device, parts.streams())
            writer.writerows([task, *row] for row in _rows(found, place is not None))


#: images that are drawn, of all tasks together
_DRAWN = 8

#: column that numbers the targets of a sample, for kinds of targets with several per sample
_PLACES: dict[TargetKind, str] = {
    "class_sequence": "step",
    "value_sequence": "step",
    "token": "step",
    "class_map": "place",
}


def _columns(spec: TaskSpec, place: str | None) -> list[str]:
    """Columns of `_rows`: label, decision and scores of a class, or target and predicted values."""
    where = ["index"] if place is None else ["index", place]
    outputs = range(spec.outputs)
    if spec.targets.kind in CLASS_KINDS:
        return [*where, "label", "prediction", *(f"score_{k}" for k in outputs)]
    return [*where, *(f"target_{k}" for k in outputs), *(f"prediction_{k}" for k in outputs)]


def _rows(found: Predictions, by_place: bool) -> Iterator[list[float]]:
    """One row per sample, or per step or place of each."""
    classes = found.decisions.dtype == torch.int64
    places = prod(found.targets.shape[1 : None if classes else 2]) if by_place else 1
    shown = (found.targets, found.decisions, *((found.outputs,) if classes else ()))
    parts = [x.reshape(len(found.targets) * places, -1).tolist() for x in shown]
    for i, values in enumerate(zip(*parts, strict=True)):
        where = divmod(i, places) if by_place else (i,)
        yield [*where, *(number for part in values for number in part)]
