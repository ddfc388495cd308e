"""The computer that trains also evaluates: floating point, no mapping."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from neuro.data.base import Loader, TaskSpec
from neuro.hardware.base import Decode, HardwareReport, Target
from neuro.models.base import CoreModel


class Host(Target):
    """Evaluates with torch on the device that holds the model."""

    def check(
        self, model: CoreModel, tasks: Mapping[str, TaskSpec], samples: Mapping[str, int]
    ) -> None:
        """Every model runs here."""

    @torch.no_grad()
    def evaluate(
        self, model: CoreModel, loaders: Mapping[str, Loader], decode: Decode
    ) -> HardwareReport:
        """Accuracy per task, where there are classes, and the wall time per sample in batches as
        they come."""
        model.eval()
        device = model.device
        accuracy: dict[str, float] = {}
        ms_per_sample: dict[str, float] = {}
        for task, loader in loaders.items():
            correct = labelled = samples = 0
            started = time.perf_counter()
            for batch in loader.batches():
                output = model(
                    batch._replace(inputs=batch.inputs.to(device)).sequence(), dt_ms=batch.dt_ms
                )
                decisions = decode(output.values).cpu()
                samples += len(batch.targets)
                if not decisions.is_floating_point():
                    correct += int((decisions == batch.targets).sum())
                    labelled += int((batch.targets >= 0).sum())
            if labelled:
                accuracy[task] = correct / labelled
            ms_per_sample[task] = (time.perf_counter() - started) / samples * 1e3
        return HardwareReport(f"host ({device})", accuracy, {"ms_per_sample": ms_per_sample})
