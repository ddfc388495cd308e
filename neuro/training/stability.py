"""Whether an update may be made: finite on every process, its gradient true in scale and bounded.

Under 16-bit precision the loss is scaled up before backward. Norms are only true after that has
been undone, and after an overflow the scale must come down, although no update is made.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from neuro.training.settings import TrainerSettings


class GradientGuard:
    """Looks at the gradients of weights between backward and the optimizer's step."""

    def __init__(
        self,
        fabric: Fabric,
        parameters: Iterable[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        settings: TrainerSettings,
    ):
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._needs_norm = settings.max_skipped is not None or settings.clip_norm is not None
        self._clip_norm = settings.clip_norm
        self._clip_value = settings.clip_value
        self._floor = settings.scaler.floor
        self._scaler: torch.amp.GradScaler | None = getattr(
            fabric.strategy.precision, "scaler", None
        )

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled, so that an update may fail that a lower scale would allow."""
        return self._scaler is not None

    @property
    def has_gradient(self) -> bool:
        """Whether anything is trained by its gradient."""
        return any(p.grad is not None for p in self._parameters)

    def norm(self) -> Tensor | None:
        """The norm of the gradient of all parameters together, its scale undone.

        None where there is no gradient, and where nothing needs it.
        """
        trained = self._trained()
        if not trained:
            return None
        if self._scaler is not None and (self._needs_norm or self._clip_value is not None):
            self._scaler.unscale_(self._optimizer)
        if not self._needs_norm:
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])

    def clip(self, norm: Tensor | None) -> None:
        """Bound the gradient by the norm, or its entries by the value, that is allowed."""
        if self._clip_norm is not None and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained(), self._clip_norm, norm)
        if self._clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._trained(), self._clip_value)

    def lower_scale(self) -> None:
        """After an update that is not made: the loss was scaled too far, if it was scaled."""
        if self._scaler is not None:
            self._scaler.update()
            if self._scaler.get_scale() < self._floor:
                self._scaler.update(self._floor)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._parameters if p.grad is not None]


def all_finite(values: Iterable[Tensor]) -> Tensor:
    """1.0 where everything is finite on this process, else 0.0; a scalar on the device."""
    scalars: list[Tensor] = []  # looked at in one operation
    others: list[Tensor] = []
    for value in values:
        (scalars if value.ndim == 0 and value.is_floating_point() else others).append(value)
    flags = [torch.stack(scalars).isfinite().all()] if scalars else []
    flags += [value.isfinite().all() for value in others]
    return (flags[0] if len(flags) == 1 else torch.stack(flags).all()).float()
