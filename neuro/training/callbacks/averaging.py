"""What averages of weights share: kept beside the model, measured in its place, saved separately.

An average covers the parameters. Buffers (thresholds, running statistics) are no points of a
descent and stay the model's own. The averaged weights never train: they are put into the model for
a moment, so that its hooks, wrappers and device serve them as well.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuro.training.callbacks.base import Callback

if TYPE_CHECKING:
    from neuro.training.trainer import Trainer

log = logging.getLogger(__name__)


class WeightAverage(Callback):
    """An average of a phase's weights, saved at its end as `<name>` and `<phase>-<name>`.

    Its validation metrics are logged as `val_<name>/...`.
    """

    name: str

    def __init__(self) -> None:
        self._count = 0  # weights in the average
        self._names: list[str] = []
        self._average: list[Tensor] = []  # in the order of the names
        self._saved: dict[str, Tensor] = {}  # from a checkpoint, until the model is at hand

    @abstractmethod
    def _merge(self, current: list[Tensor]) -> None:
        """Take the current weights into `self._average`, which `self._count` have made."""

    def on_phase_start(self, trainer: Trainer) -> None:
        self._count, self._average, self._names, self._saved = 0, [], [], {}

    @torch.no_grad()
    def _update(self, trainer: Trainer) -> None:
        """Count the weights as they are now; the first ones are copied."""
        current = [parameter.detach() for parameter in trainer.model.parameters()]
        self._place(trainer)
        if self._count == 0:
            self._names = [name for name, _ in trainer.model.named_parameters()]
            self._average = [weight.clone() for weight in current]
        else:
            self._merge(current)
        self._count += 1

    def _place(self, trainer: Trainer) -> None:
        """Bring the average of a checkpoint to where the parameters are."""
        if self._saved:
            named = dict(trainer.model.named_parameters())
            self._names = list(named)
            self._average = [self._saved[n].to(p.device, copy=True) for n, p in named.items()]
            self._saved = {}

    @contextmanager
    def _in_place(self, trainer: Trainer) -> Iterator[None]:
        """The model with the averaged weights; all of its tensors come back to the bit."""
        self._place(trainer)
        tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
        with torch.no_grad():
            own = [tensor.detach().clone() for tensor in tensors]
            torch._foreach_copy_(list(trainer.model.parameters()), self._average)
            try:
                yield
            finally:
                torch._foreach_copy_(tensors, own)

    def _measure(self, trainer: Trainer) -> None:
        """Validate the model as it is now under the average's name."""
        found = trainer.validate(f"val_{self.name}")
        trainer.validation |= found
        trainer.tracker.log(found, trainer.progress.step)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_weights(f"{trainer.phase.name}-{self.name}", also=self.name)

    def _tell_if_none(self, trainer: Trainer) -> bool:
        """Warn and say so if the phase ended before the first average."""
        if self._count == 0 and trainer.is_main:
            log.warning(
                "Phase %s ended before its weights were averaged: there is no %s-%s.",
                trainer.phase.name, trainer.phase.name, self.name,
            )  # fmt: skip
        return self._count == 0

    def on_phase_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        self._count, self._average, self._names = (
            0,
            [],
            [],
        )  # not in the checkpoints of what follows

    def state_dict(self) -> dict[str, Any]:
        average = self._saved or dict(zip(self._names, self._average, strict=True))
        return {"count": self._count, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._average, self._names = state["count"], [], []
        self._saved = state["average"]
