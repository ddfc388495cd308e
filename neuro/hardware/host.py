"""The computer that trains also evaluates: floating point, no mapping."""

from __future__ import annotations

from collections.abc import Mapping

from neuro.data.base import Loader, TaskSpec
from neuro.hardware.base import Decode, HardwareReport, Measured, Target
from neuro.models.base import CoreModel


class Host(Target):
    """Reports what was measured on the device that holds the model; it runs nothing again."""

    def check(
        self, model: CoreModel, tasks: Mapping[str, TaskSpec], samples: Mapping[str, int]
    ) -> None:
        """Every model runs here."""

    def evaluate(
        self,
        model: CoreModel,
        loaders: Mapping[str, Loader],
        decode: Decode,
        measured: Mapping[str, Measured],
    ) -> HardwareReport:
        """Accuracy per task, where it is one of the metrics, and the wall time per sample."""
        accuracy = {
            task: found.metrics["accuracy"]
            for task, found in measured.items()
            if "accuracy" in found.metrics
        }
        ms_per_sample = {
            task: found.ms_per_sample
            for task, found in measured.items()
            if found.ms_per_sample is not None
        }
        return HardwareReport(f"host ({model.device})", accuracy, {"ms_per_sample": ms_per_sample})
