"""Base of averages of weights, which are validated and saved beside the trained weights.

An average covers the parameters. Buffers (thresholds, running statistics) are not optimised by
gradients and stay those of the model. For validations and checkpoints the averaged weights are
swapped into the model, so that its hooks, wrappers and device apply to them.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from neuro.training.callbacks.base import Callback, Setup, TrainerView

log = logging.getLogger(__name__)


class WeightAverage(Callback):
    """An average of a phase's weights, saved at its end as `<name>` and `<phase>-<name>`.

    It is validated beside the trained weights, as `val_<name>/...`. If one of these metrics is
    monitored, the best checkpoint holds the average. With `final`, the phase ends with the average
    as its weights, which the tests and the next phase use.
    """

    name: str

    def __init__(self, final: bool = False) -> None:
        self.final = final
        self._count = 0  # weights in the average
        self._validated = 0  # value of _count at the last validation
        self._names: list[str] = []
        self._average: list[Tensor] = []  # in the order of the names
        self._saved: dict[str, Tensor] = {}  # from a checkpoint, not yet on the model's device

    @abstractmethod
    def _merge(self, current: list[Tensor]) -> None:
        """Add the current weights to `self._average`, the average of `self._count` weights."""

    def notes(self, setup: Setup) -> Iterator[str]:
        if setup.objective.needs_graph:
            return
        statistical = setup.objective.statistical_terms(setup.model)
        if statistical:
            terms = " and ".join(f"loss.{name}" for name in statistical)
            yield (
                f"averages weights alone, but {terms} of this run's local rules learn running "
                f"statistics instead, so that {self.validates}/... will hardly differ from "
                "val/.... For an average with an effect: rule=surrogate readout=linear."
            )

    @property
    def validates(self) -> str:  # type: ignore[override]
        return f"val_{self.name}"

    def on_phase_start(self, trainer: TrainerView) -> None:
        self._forget()

    def _forget(self) -> None:
        self._count, self._validated = 0, 0
        self._average, self._names, self._saved = [], [], {}

    @torch.no_grad()
    def _update(self, trainer: TrainerView) -> None:
        """Add the current weights to the average; the first ones are copied."""
        current = [parameter.detach() for parameter in trainer.model.parameters()]
        self._place(trainer)
        if self._count == 0:
            self._names = [name for name, _ in trainer.model.named_parameters()]
            self._average = [weight.clone() for weight in current]
        else:
            self._merge(current)
        self._count += 1

    def _place(self, trainer: TrainerView) -> None:
        """Move the average of a checkpoint to the device of the parameters."""
        if self._saved:
            named = dict(trainer.model.named_parameters())
            self._names = list(named)
            self._average = [self._saved[n].to(p.device, copy=True) for n, p in named.items()]
            self._saved = {}

    @contextmanager
    def _in_place(self, trainer: TrainerView) -> Iterator[None]:
        """Swap the averaged weights into the model within the block."""
        self._place(trainer)
        with trainer.swap_weights(dict(zip(self._names, self._average, strict=True))):
            yield

    def validate(self, trainer: TrainerView) -> Mapping[str, float]:
        if self._count == 0:
            return {}
        self._validated = self._count
        with self._in_place(trainer):
            return trainer.validate(self.validates)

    @contextmanager
    def validated_weights(self, trainer: TrainerView) -> Iterator[bool]:
        with self._in_place(trainer):
            yield True

    def on_training_end(self, trainer: TrainerView) -> None:
        if self._count == 0:
            if trainer.is_main:
                log.warning(
                    "Phase %s ended before its weights were averaged: there is no %s-%s.",
                    trainer.phase.name,
                    trainer.phase.name,
                    self.name,
                )
            return
        if self._validated != self._count:
            trainer.add_to_report(self.validate(trainer))
        with self._in_place(trainer):
            trainer.save_weights(f"{trainer.phase.name}-{self.name}", also=self.name)
            if self.final:
                trainer.set_final_weights(
                    {key: value.clone() for key, value in trainer.model.state_dict().items()}
                )

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._forget()  # checkpoints of later phases do not hold it

    def state_dict(self) -> dict[str, Any]:
        average = self._saved or dict(zip(self._names, self._average, strict=True))
        return {"count": self._count, "validated": self._validated, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._forget()
        self._count, self._validated = state["count"], state["validated"]
        self._saved = state["average"]
