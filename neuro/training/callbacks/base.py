"""The contract of a callback: everything optional about training, in a few hooks.

Hooks run in the order in which the config lists the callbacks. A callback may read all of the
trainer, change weights after an update (bounds) and end a phase, but never touches gradients.
What it must remember to continue a resumed run goes through `state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from neuro.config.trainer import TrainerSettings
from neuro.data.base import Batch, DataSource
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.capabilities import Constrained, unmet
from neuro.training.phases import PhasePlan

if TYPE_CHECKING:
    from neuro.training.trainer import Trainer


class Setup(NamedTuple):
    """What a callback is checked against before training.

    `validated` are the metrics that the validations of every phase give: `val/...` and those of
    callbacks.
    """

    model: CoreModel
    data: DataSource
    objective: Objective
    plan: Sequence[PhasePlan]
    settings: TrainerSettings
    validated: Sequence[str]


class Callback:
    """Does nothing; subclasses override the hooks that they need.

    `trainer` gives `model` (the bare module), `data`, `objective`, `optimizer`, `phase` (the
    resolved plan of the current phase), `progress` (step counters), `tracker`, `run_dir`,
    `is_main` (whether this process writes files), `stop_phase(reason)` and
    `end_phase_with(weights)`.
    """

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

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first phase, or the first step after a resume; also before calibration."""

    def on_phase_start(self, trainer: Trainer) -> None:
        """Weights, flags and optimizer of the phase are in place; not called on a resume."""

    def on_batch(self, trainer: Trainer, batch: Batch) -> Batch:
        """A micro-batch on the device, before its forward pass: what is trained on instead of it.

        Weights in use and surroundings of the forward pass (`learning/step.py`, TrainStep)
        are added to `trainer.weight_changes` and `trainer.surroundings` in `on_fit_start`.
        """
        return batch

    def on_step(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After an optimizer update; `metrics` is filled at log intervals and empty otherwise."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After the last update of an epoch (number `progress.epoch`), before its validation."""

    def validate(self, trainer: Trainer) -> Mapping[str, float]:
        """With every validation: `<validates>/...` beside `val/...`; empty while there is none.

        Such a metric can be monitored. A validation without it decides nothing.
        """
        return {}

    def keeping(self, trainer: Trainer) -> AbstractContextManager[bool]:
        """Within it the model has what is kept at the best value of a metric of `validate`.

        Gives whether these are other weights than those that train, which is the default.
        """
        return nullcontext(False)

    def on_validation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After a validation; `metrics` has its `val/...` and what `validate` gave."""

    def on_training_end(self, trainer: Trainer) -> None:
        """After a phase's last update and validation, before its weights are chosen and tested."""

    def on_phase_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After a phase; `metrics` has the `test/<task>/...` results of the tasks evaluated."""

    def on_fit_end(self, trainer: Trainer, report: Mapping[str, Any]) -> None:
        """After the last phase, with what goes into report.json."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


def check_callbacks(callbacks: Mapping[str, Callback], setup: Setup) -> Iterator[str]:
    """Problems of callbacks with the model and the rest of the experiment, before training."""
    for name, callback in callbacks.items():
        path = f"callbacks.{name}"
        lacking = list(unmet(setup.model, callback.requires, f"{path}: {type(callback).__name__}"))
        if lacking:
            yield from (f"{problem} Leave it out of the list of callbacks." for problem in lacking)
            continue
        yield from (f"{path}.{problem}" for problem in callback.check(setup))
    constrained = setup.model.constrained if isinstance(setup.model, Constrained) else ()
    if constrained and not any(callback.enforces_constraints for callback in callbacks.values()):
        yield (
            f"callbacks: none enforces the constraints on {', '.join(constrained)} of "
            f"{type(setup.model).__name__}; add the callback constraints."
        )
