"""The contract of an evaluation target: checked before training, honest after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from neuro.data.base import Loader, TaskSpec
from neuro.models.base import CoreModel

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HardwareReport:
    """What ran, and what it measured: `accuracy` per task, `details` as plain JSON values."""

    backend: str
    accuracy: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)


class Target(ABC):
    """Something that a trained model can be evaluated on."""

    supplied: tuple[str, ...] = ()

    @abstractmethod
    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        """Dry run before training: ExportError or BackendUnavailable if it cannot work."""

    @abstractmethod
    def evaluate(
        self, model: CoreModel, loaders: Mapping[str, Loader], decode: Decode
    ) -> HardwareReport:
        """Run the test loaders, by task, and report what actually ran."""
