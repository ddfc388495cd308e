"""The contract of a callback: everything optional about training, in a few hooks.

Hooks run in the order in which the config lists the callbacks. A callback reads the trainer through
`TrainerView` and changes training by its methods. It may change weights after an update (bounds,
thresholds), but never gradients. What a resumed run needs of it goes through `state_dict`.
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
    from neuro.runs.report import Report
    from neuro.training.phases import PhasePlan
    from neuro.training.progress import Progress
    from neuro.training.sections import Sections


class Setup(NamedTuple):
    """What a callback is checked against before training.

    `validated` are the metrics that the validations of every phase give: `val/...` and those of
    callbacks. `callbacks` are all of the experiment, by name.
    """

    model: CoreModel
    data: DataSource
    objective: Objective
    plan: Sequence[PhasePlan]
    settings: TrainerSettings
    validated: Sequence[str]
    callbacks: Mapping[str, Callback]


class TrainerView(Protocol):
    """The trainer as callbacks see it: values to read, and methods that change training.

    Nothing of it may be assigned. `phase` is the plan of the current phase, `lr` the rate of the
    last update, `loss` its loss on this process, `grad_norm` the norm of its gradient before
    clipping (None: nothing needed it), `pretrained` whether the first weights came from another
    run, `is_main` whether this process writes files.
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
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> Tensor | None: ...
    @property
    def loss(self) -> Tensor: ...

    def measure(self, tasks: Iterable[str], split: Split) -> dict[str, dict[str, float]]:
        """Metrics of the model as it is now, by task; all processes join."""
        ...

    def validate(self, prefix: str = "val") -> dict[str, float]:
        """Metrics of the model as it is now on the phase's validation data; all processes join.

        `<prefix>/<metric>` is the mean over the tasks, `<prefix>/<task>/<metric>` one of several.
        """
        ...

    def validated_weights(self, metric: str) -> AbstractContextManager[bool]:
        """A context in which the model has the weights that a validated metric is measured on.

        Gives whether they differ from those that train.
        """
        ...

    def log(self, metrics: Mapping[str, float]) -> None:
        """Give metrics of the current update to the trackers."""
        ...

    def log_histogram(self, name: str, values: np.ndarray) -> None:
        """Give the distribution of a quantity to those trackers that show histograms."""
        ...

    def log_artifact(self, path: Path, name: str) -> None:
        """Give a file of the run to the trackers."""
        ...

    def add_validation(self, metrics: Mapping[str, float]) -> None:
        """Log metrics that belong to the last validation, so that the report has them too."""
        ...

    def save_weights(self, name: str, also: str) -> None:
        """Save the model as it is now, for evaluation and `init_from`, under two names."""
        ...

    def stop_phase(self, reason: str) -> None:
        """End the current phase after this update (not the run)."""
        ...

    def override_lr(self, lr: float | None) -> None:
        """Train at this rate instead of the schedule's; None returns to the schedule."""
        ...

    def swap_weights(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """A context in which the model has other values of some parameters.

        Afterwards its parameters and buffers are again what they were, to the bit.
        """
        ...

    def set_final_weights(self, weights: Mapping[str, Tensor]) -> None:
        """In `on_training_end`: end the phase with these weights instead of its last ones."""
        ...

    def add_weight_change(self, change: WeightChange) -> None:
        """Change the weights in use in the forward pass of training (`learning/step.py`)."""
        ...

    def add_forward_context(self, enter: ForwardContext) -> None:
        """Enter a context around every forward pass of training."""
        ...

    def profile(self, sections: Sections | None) -> None:
        """Have the parts of training measured; None measures nothing."""
        ...


class Callback:
    """Does nothing; subclasses override the hooks that they need."""

    #: a callback that writes or prints needs only the main process; one that changes weights or
    #: ends a phase must act the same on all of them
    main_process_only = False

    #: capabilities that the model must have (`models/capabilities.py`)
    requires: tuple[type, ...] = ()

    #: whether it projects the parameters of a `Constrained` model after every update
    enforces_constraints = False

    #: what the names of `validate` begin with, as in `val_ema/accuracy`
    validates: str | None = None

    def check(self, setup: Setup) -> Iterable[str]:
        """Problems of the callback in this experiment, each beginning with the callback's key."""
        return ()

    def notes(self, setup: Setup) -> Iterable[str]:
        """What in this experiment leaves the callback without effect, or defeats another one.

        Logged as warnings before training.
        """
        return ()

    def on_fit_start(self, trainer: TrainerView) -> None:
        """Before the first phase, or the first step after a resume; also before calibration."""

    def on_phase_start(self, trainer: TrainerView) -> None:
        """Weights, flags and optimizer of the phase are in place; not called on a resume."""

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        """Before the forward pass of a micro-batch on the device; returns the one to train on."""
        return batch

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After an optimizer update; `metrics` is filled at log intervals and empty otherwise."""

    def on_epoch_end(self, trainer: TrainerView) -> None:
        """After the last update of an epoch (number `progress.epoch`), before its validation."""

    def validate(self, trainer: TrainerView) -> Mapping[str, float]:
        """With every validation: `<validates>/...` beside `val/...`; empty while there is none.

        Such a metric can be monitored. A validation without it decides nothing.
        """
        return {}

    def validated_weights(self, trainer: TrainerView) -> AbstractContextManager[bool]:
        """A context in which the model has the weights that `validate` measures.

        Gives whether they differ from those that train. They are kept at the metric's best value.
        """
        return nullcontext(False)

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After a validation; `metrics` has its `val/...` and what `validate` gave."""

    def on_training_end(self, trainer: TrainerView) -> None:
        """After a phase's last update and validation, before its weights are chosen and tested."""

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After a phase; `metrics` has the `test/<task>/...` results of the tasks evaluated."""

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        """After the last phase, with what goes into report.json."""

    def on_repeat_end(self, number: int, repeats: int, report: Report) -> None:
        """After repeat `number` of a set of `repeats` runs, with its report.

        Called on callbacks of the set, not on those of a run, and on the main process only.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
