"""Evaluation on the computer that trains, in floating point."""

from __future__ import annotations

from collections.abc import Mapping

from neuro.data.base import Loader, TaskSpec
from neuro.hardware.base import HardwareReport, Measured, Target
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel


class Host(Target):
    """Reports the results that were measured during training, without another evaluation."""

    def check(
        self, model: CoreModel, tasks: Mapping[str, TaskSpec], samples: Mapping[str, int]
    ) -> None:
        """Accept every model."""

    def evaluate(
        self,
        model: CoreModel,
        loaders: Mapping[str, Loader],
        objective: Objective,
        measured: Mapping[str, Measured],
    ) -> HardwareReport:
        """Report the metrics by task, and the wall time per sample."""
        scores = {
            task: {name: found.metrics[name] for name in objective.metrics}
            for task, found in measured.items()
        }
        ms_per_sample = {
            task: found.ms_per_sample
            for task, found in measured.items()
            if found.ms_per_sample is not None
        }
        return HardwareReport(f"host ({model.device})", scores, {"ms_per_sample": ms_per_sample})
