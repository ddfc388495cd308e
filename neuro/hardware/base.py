"""The contract of an evaluation target: checked before training, honest after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuro.data.base import Loader, TaskSpec
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Measured(NamedTuple):
    """What the host measured of a task's test split with the trained model.

    `ms_per_sample` is the wall time in batches as they come; None if it was not taken, as in a run
    that was resumed after its last test.
    """

    metrics: Mapping[str, float]
    ms_per_sample: float | None = None


@dataclass(frozen=True)
class HardwareReport:
    """What ran, and what it measured.

    - `scores`: the objective's metrics by task
    - `details`: plain JSON values
    - `metrics`: the numbers that runs are compared by, named as `Target.metric_names` does
    - `figures`: functions that draw a figure, `files`: functions that write a file; by name
    """

    backend: str
    scores: Mapping[str, Mapping[str, float]]
    details: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


class Target(ABC):
    """Something that a trained model can be evaluated on."""

    supplied: tuple[str, ...] = ()

    #: capabilities of a model (`models/capabilities.py`) without which it cannot be evaluated
    requires: tuple[type, ...] = ()

    #: whether its numbers are not the host's, so that a curriculum has a matrix of its own on it
    own_arithmetic = False

    @abstractmethod
    def check(
        self, model: CoreModel, tasks: Mapping[str, TaskSpec], samples: Mapping[str, int]
    ) -> None:
        """Dry run before training, for the tasks that will be evaluated and their test samples.

        ExportError or BackendUnavailable if it cannot work, ConfigError if the target's own keys
        do not fit.
        """

    @abstractmethod
    def evaluate(
        self,
        model: CoreModel,
        loaders: Mapping[str, Loader],
        objective: Objective,
        measured: Mapping[str, Measured],
    ) -> HardwareReport:
        """Run the test loaders, by task, and report what actually ran.

        `measured` are the host's own results by task, which a target may report as its own if the
        host is what it stands for.
        """

    def metric_names(self, tasks: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
        """Names of the metrics that an evaluation of these tasks reports.

        `metrics` are those of the objective.
        """
        return ()

    def scores(
        self, model: CoreModel, loaders: Mapping[str, Loader], objective: Objective
    ) -> Mapping[str, Mapping[str, float]]:
        """The objective's metrics by task, on every sample, of a target with its own arithmetic."""
        raise NotImplementedError
