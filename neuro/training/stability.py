"""Whether an update may be made: finite on every process, its gradient true in scale and bounded.

Under 16-bit precision the loss is scaled up before backward. Norms are only true after that has
been undone, and after an overflow the scale must come down, although no update is made.

On a CPU an update that is not finite is not made. On another device the host would have to wait for
the answer: there each update is made, and undone on the device if it was not finite. How many were
is read at intervals.
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
    """Looks at the gradients between backward and the optimizer's step, and makes the update.

    `skipped` counts the updates that were not made; `immediate` says whether that is known at once.
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
                if "capturable" in group:  # the state is then on the device as a whole
                    group["capturable"] = True

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

    def make(
        self, update: Callable[[], None], finite: Tensor | None, buffers: Sequence[Tensor]
    ) -> bool | Tensor:
        """Make an update unless it is not finite; returns whether it was made.

        `update` changes parameters, the optimizer's state and `buffers`. `finite` is a boolean
        scalar, or None where nothing guards against updates that are not finite. Unless
        `immediate`, the answer is a boolean on the device.
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
                    old = before.get(id(x))  # None: state of a first update, which begins with 0
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
        """After an update that is not made: the loss was scaled too far, if it was scaled."""
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
    """Counts updates that were not made: since the last reading, and in a row."""

    def __init__(self, in_a_row: int = 0):
        self._skipped: int | Tensor = 0
        self._in_a_row: int | Tensor = in_a_row
        self._most: int | Tensor = 0

    def add(self, made: bool | Tensor) -> None:
        """Count an update; `made` may be a boolean on the device, which is not waited for."""
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
    """1.0 where everything is finite on this process, else 0.0; a scalar on the device."""
    scalars: list[Tensor] = []  # looked at in one operation
    others: list[Tensor] = []
    for value in values:
        (scalars if value.ndim == 0 and value.is_floating_point() else others).append(value)
    flags = [torch.stack(scalars).isfinite().all()] if scalars else []
    flags += [value.isfinite().all() for value in others]
    return (flags[0] if len(flags) == 1 else torch.stack(flags).all()).float()
