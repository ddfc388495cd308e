"""Guard of updates: unscale and clip gradients, and skip updates that are not finite.

Under 16-bit precision the loss is scaled up before backward. Gradients must be unscaled before
norms are computed, and after an overflow the scale must be lowered, although the update is skipped.

On a CPU an update that is not finite is not made. On other devices the host would have to wait for
the result of the check: there each update is made, and reverted on the device if it was not finite.
The number of such updates is read at intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neuro.config.trainer import TrainerSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class GradientGuard:
    """Checks the gradients between backward and the optimizer's step, and makes the update.

    `skipped` counts the skipped updates; `immediate` is True if the host knows them at once.
    """

    def __init__(
        self,
        fabric: Fabric,
        parameters: Iterable[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        settings: TrainerSettings,
        skipped_in_a_row: int = 0,
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
        self.immediate = fabric.device.type == "cpu"
        self.skipped = SkippedUpdates(skipped_in_a_row)
        if not self.immediate:
            for group in optimizer.param_groups:
                if "capturable" in group:  # the whole state is then on the device
                    group["capturable"] = True

    @property
    def scaled(self) -> bool:
        """True if the loss is scaled, so that an update may fail only because of its scale."""
        return self._scaler is not None

    @property
    def has_gradient(self) -> bool:
        """True if any parameter has a gradient."""
        return any(p.grad is not None for p in self._parameters)

    def norm(self, change: Callable[[], None] | None = None) -> Tensor | None:
        """The norm of the unscaled gradient of all parameters together, after `change` of it.

        None if there is no gradient, or if neither skipping nor clipping needs the norm.
        """
        trained = self._trained()
        if not trained:
            return None
        unscaled = self._needs_norm or self._clip_value is not None or change is not None
        if self._scaler is not None and unscaled:
            self._scaler.unscale_(self._optimizer)
        if change is not None:
            change()
        if not self._needs_norm:
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])

    def clip(self, norm: Tensor | None) -> None:
        """Clip the norm of the gradient, or its entries."""
        if self._clip_norm is not None and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained(), self._clip_norm, norm)
        if self._clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._trained(), self._clip_value)

    def make(
        self, update: Callable[[], None], finite: Tensor | None, buffers: Sequence[Tensor]
    ) -> bool | Tensor:
        """Make an update unless it is not finite; returns whether it was made.

        `update` changes parameters, the optimizer's state and `buffers`. `finite` is a boolean
        scalar, or None if the check is off. Unless `immediate`, the result is a boolean on the
        device.
        """
        made: bool | Tensor = True
        if finite is None:
            update()
        elif self.immediate:
            made = bool(finite)
            if made:
                update()
            else:
                self._lower_scale()
        else:
            made = finite
            kept = [(x, x.detach().clone()) for x in (*self._trained(), *buffers, *self._state())]
            update()
            before = {id(x): old for x, old in kept}
            with torch.no_grad():
                for x in (*(x for x, _ in kept), *self._state()):
                    old = before.get(id(x))  # None: created by this update, 0 before it
                    x.copy_(torch.where(made, x, torch.zeros_like(x) if old is None else old))
        self.skipped.add(made)
        return made

    def read_skipped(self) -> tuple[int, int]:
        """Updates skipped since the last reading, and the most of them in a row."""
        if not self.immediate and self._scaler is not None:
            self._keep_scale()
        return self.skipped.read()

    def _state(self) -> list[Tensor]:
        states = self._optimizer.state.values()
        return [x for state in states for x in state.values() if isinstance(x, Tensor)]

    def _lower_scale(self) -> None:
        """Lower the scale of the loss after a skipped update, if the loss is scaled."""
        if self._scaler is not None and self.has_gradient:
            self._scaler.update()
            self._keep_scale()

    def _keep_scale(self) -> None:
        """Keep the scale above its floor."""
        assert self._scaler is not None
        if self._scaler.get_scale() < self._floor:
            self._scaler.update(self._floor)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._parameters if p.grad is not None]


class SkippedUpdates:
    """Counts skipped updates: since the last reading, and in a row."""

    def __init__(self, in_a_row: int = 0):
        self._skipped: int | Tensor = 0
        self._in_a_row: int | Tensor = in_a_row
        self._most: int | Tensor = 0

    def add(self, made: bool | Tensor) -> None:
        """Count an update; `made` may be a boolean on the device, without synchronisation."""
        missed = 1 - (int(made) if isinstance(made, bool) else made.long())
        self._skipped = self._skipped + missed
        self._in_a_row = (self._in_a_row + 1) * missed
        if isinstance(self._in_a_row, Tensor):
            self._most = self._in_a_row.clamp(min=self._most)
        else:
            self._most = max(self._most, self._in_a_row)

    def read(self) -> tuple[int, int]:
        """Updates skipped since the last reading, and the most of them in a row."""
        skipped, most = int(self._skipped), int(self._most)
        self._skipped, self._most = 0, 0
        return skipped, most


def all_finite(values: Iterable[Tensor]) -> Tensor:
    """1.0 if all values are finite on this process, else 0.0; a scalar on the device."""
    scalars: list[Tensor] = []  # checked in one operation
    others: list[Tensor] = []
    for value in values:
        (scalars if value.ndim == 0 and value.is_floating_point() else others).append(value)
    flags = [torch.stack(scalars).isfinite().all()] if scalars else []
    flags += [value.isfinite().all() for value in others]
    return (flags[0] if len(flags) == 1 else torch.stack(flags).all()).float()
