"""Interface of evaluation targets: a check before training, an evaluation and a report after it."""

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
    """Results of the trained model on the test split of a task, as measured by the host.

    `ms_per_sample` is the wall time per sample, in batches of the loader; None if it was not
    measured, as in a run that was resumed after its last test.
    """

    metrics: Mapping[str, float]
    ms_per_sample: float | None = None


@dataclass(frozen=True)
class HardwareReport:
    """Description and results of an evaluation on a target.

    - `scores`: the objective's metrics by task
    - `details`: plain JSON values
    - `metrics`: numbers for the comparison of runs, by the names of `Target.metric_names`
    - `figures`: functions that draw a figure, `files`: functions that write a file; by name
    """

    backend: str
    scores: Mapping[str, Mapping[str, float]]
    details: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


class Target(ABC):
    """A device or simulator on which a trained model can be evaluated."""

    supplied: tuple[str, ...] = ()

    #: capabilities (`models/capabilities.py`) that a model must have
    requires: tuple[type, ...] = ()

    #: True if results differ from the host's, so that continual metrics are computed separately
    own_arithmetic = False

    @abstractmethod
    def check(
        self, model: CoreModel, tasks: Mapping[str, TaskSpec], samples: Mapping[str, int]
    ) -> None:
        """Check before training that the target can evaluate the model.

        tasks: specifications of the tasks to evaluate. samples: numbers of their test samples.

        ExportError for models that do not fit, BackendUnavailable for missing software or devices,
        ConfigError for settings of the target that are not valid.
        """

    @abstractmethod
    def evaluate(
        self,
        model: CoreModel,
        loaders: Mapping[str, Loader],
        objective: Objective,
        measured: Mapping[str, Measured],
    ) -> HardwareReport:
        """Evaluate the model on the test loaders of all tasks.

        measured: results of the host by task, which the target for the host reports.
        """

    def metric_names(self, tasks: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
        """Names of the metrics that an evaluation of these tasks reports.

        `metrics` are those of the objective.
        """
        return ()

    def scores(
        self, model: CoreModel, loaders: Mapping[str, Loader], objective: Objective
    ) -> Mapping[str, Mapping[str, float]]:
        """The objective's metrics by task, on all samples; for targets with `own_arithmetic`."""
        raise NotImplementedError
