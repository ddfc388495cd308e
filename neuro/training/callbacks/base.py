"""The contract of callbacks, the optional parts of training.

Hooks are called in the order in which the config lists the callbacks. A callback reads the trainer
through `TrainerView` and changes training by its methods. It may change weights after an update
(bounds, thresholds), but not gradients. Its `state_dict` is saved in checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor

    from neuro.config.trainer import TrainerSettings
    from neuro.data.base import Batch, DataSource, Split
    from neuro.learning.objective import Objective
    from neuro.learning.step import ForwardContext, WeightChange
    from neuro.models.base import CoreModel
    from neuro.runs.report import Criterion, Report
    from neuro.training.phases import PhasePlan
    from neuro.training.progress import Progress
    from neuro.training.sections import Sections


class Setup(NamedTuple):
    """The objects of an experiment that callbacks are checked against before training.

    - `validated`: metrics that all phases validate, `val/...` and those of callbacks
    - `callbacks`: all callbacks by name
    """

    model: CoreModel
    data: DataSource
    objective: Objective
    plan: Sequence[PhasePlan]
    settings: TrainerSettings
    validated: Sequence[str]
    callbacks: Mapping[str, Callback]


class Evaluation(NamedTuple):
    """How far an evaluation of a task on a split is: batches `done`, of all."""

    task: str
    split: Split
    done: int
    batches: int


class TrainerView(Protocol):
    """The interface of the trainer for callbacks: values to read, and methods to change training.

    No attribute may be assigned.

    - `phase`: plan of the current phase
    - `best`: best value of the monitored metric in the phase; None before a validation
    - `lr`, `loss`: learning rate of the last update, and its loss on this process
    - `grad_norm`: norm of its gradient before clipping; None if it was not computed
    - `pretrained`: whether the initial weights are those of another run
    - `is_main`: whether this process writes files
    """

    @property
    def model(self) -> CoreModel: ...
    @property
    def data(self) -> DataSource: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def plan(self) -> Sequence[PhasePlan]: ...
    @property
    def settings(self) -> TrainerSettings: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def pretrained(self) -> bool: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def world_size(self) -> int: ...
    @property
    def is_main(self) -> bool: ...
    @property
    def phase(self) -> PhasePlan: ...
    @property
    def progress(self) -> Progress: ...
    @property
    def best(self) -> float | None: ...
    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> Tensor | None: ...
    @property
    def loss(self) -> Tensor: ...

    def measure(self, tasks: Iterable[str], split: Split) -> dict[str, dict[str, float]]:
        """Metrics with the current weights, by task; a collective operation."""
        ...

    def validate(self, prefix: str = "val") -> dict[str, float]:
        """Metrics on the phase's validation data with the current weights; a collective operation.

        `<prefix>/<metric>` is the mean over the tasks, `<prefix>/<task>/<metric>` one of several.
        """
        ...

    def validated_weights(self, metric: str) -> AbstractContextManager[bool]:
        """A context in which the model has the weights that a validated metric belongs to.

        Yields True if they differ from the trained weights.
        """
        ...

    def stream_state(self, batch: Batch) -> Any:
        """The state that a training batch starts from; None: the model's initial state."""
        ...

    def log(self, metrics: Mapping[str, float]) -> None:
        """Pass metrics of the current update to the trackers."""
        ...

    def log_histogram(self, name: str, values: np.ndarray) -> None:
        """Pass the values of a quantity to trackers that have histograms."""
        ...

    def log_artifact(self, path: Path, name: str) -> None:
        """Pass a file of the run to the trackers."""
        ...

    def add_to_report(self, metrics: Mapping[str, float]) -> None:
        """Log metrics, and include them in the report unless a validation follows."""
        ...

    def save_weights(self, name: str, also: str) -> None:
        """Save the model's current weights, for evaluation and `init_from`, under two names."""
        ...

    def stop_phase(self, reason: str) -> None:
        """End the current phase after this update (not the run)."""
        ...

    def override_lr(self, lr: float | None) -> None:
        """Train at this rate instead of the schedule's; None returns to the schedule."""
        ...

    def swap_weights(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """A context in which some parameters have other values.

        Parameters and buffers are restored exactly after it.
        """
        ...

    def set_final_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set the final weights of the phase instead of its last ones; for `on_training_end`."""
        ...

    def add_weight_change(self, change: WeightChange) -> None:
        """Change the weights in use in the forward pass of training (`learning/step.py`)."""
        ...

    def add_forward_context(self, enter: ForwardContext) -> None:
        """Enter a context around every forward pass of training."""
        ...

    def profile(self, sections: Sections | None) -> None:
        """Measure the parts of training by `sections`; None ends it."""
        ...


class Callback:
    """Base class, whose hooks do nothing; subclasses override some of them."""

    #: a callback that writes or prints needs only the main process; one that changes weights or
    #: ends a phase must act the same on all of them
    main_process_only = False

    #: capabilities that the model must have (`models/capabilities.py`)
    requires: tuple[type, ...] = ()

    #: whether training goes on without it if the model lacks them: true in the default list of
    #: callbacks, which any model must be able to have
    optional = False

    #: whether it projects the parameters of a `Constrained` model after every update
    enforces_constraints = False

    #: prefix of the metrics of `validate`, such as `val_ema`
    validates: str | None = None

    def check(self, setup: Setup) -> Iterable[str]:
        """Problems of the callback in this experiment.

        Each begins with a key of the callback, or with ": " if none of them is the cause.
        """
        return ()

    def reports(self, setup: Setup) -> Iterable[str]:
        """Names of the metrics that it adds to the report, which can be the run's objective."""
        return ()

    def notes(self, setup: Setup) -> Iterable[str]:
        """Settings with which the callback has no effect, or prevents that of another one.

        Logged as warnings before training.
        """
        return ()

    def on_fit_start(self, trainer: TrainerView) -> None:
        """Before the first phase, or the first step after a resume; also before calibration."""

    def on_phase_start(self, trainer: TrainerView) -> None:
        """Before the first update of a phase, with its flags and optimizer; not after a resume."""

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        """Before the forward pass of a micro-batch on the device; returns the one to train on."""
        return batch

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After an optimizer update; `metrics` is filled at log intervals and empty otherwise."""

    def on_epoch_end(self, trainer: TrainerView) -> None:
        """After the last update of an epoch (number `progress.epoch`), before its validation."""

    def validate(self, trainer: TrainerView) -> Mapping[str, float]:
        """In every validation: further metrics `<validates>/...`; empty if there are none yet.

        They can be monitored. A validation without the monitored metric has no effect.
        """
        return {}

    def validated_weights(self, trainer: TrainerView) -> AbstractContextManager[bool]:
        """A context in which the model has the weights that `validate` evaluates.

        Yields True if they differ from the trained weights. The best checkpoint holds them if one
        of their metrics is monitored.
        """
        return nullcontext(False)

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After a validation; `metrics` has `val/...` and the results of `validate`."""

    def on_evaluation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        """After each batch of an evaluation: a validation, a test, or a callback's own."""

    def on_training_end(self, trainer: TrainerView) -> None:
        """After a phase's last update and validation, before its final weights are set."""

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After a phase; `metrics` has the results `test/<task>/...` of the evaluated tasks."""

    def criteria(self, trainer: TrainerView) -> Iterable[Criterion]:
        """After the last phase: criteria of the run, for report.json.

        A run that does not meet all criteria of its callbacks ends with exit code 6.
        """
        return ()

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        """After the last phase, with the content of report.json."""

    def on_repeat_end(self, number: int, repeats: int, report: Report) -> None:
        """After repeat `number` of a set of `repeats` runs, with its report.

        Called on callbacks of the set, not on those of a run, and on the main process only.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state to save in checkpoints: tensors and plain JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
