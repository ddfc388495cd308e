"""Running means on the device: numbers are added without waiting for them, and read later."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Meter:
    """Weighted means by name, kept as pairs of sums `[value * weight, weight]`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, name: str, value: Tensor, weight: int) -> None:
        """Count a scalar `weight` times."""
        entry = torch.stack([value.double() * weight, value.new_tensor(weight).double()])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def read(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last reading; `total` adds sums up over processes."""
        sums = {name: total(entry).tolist() for name, entry in self._sums.items()}
        self._sums = {}
        return {name: value / weight for name, (value, weight) in sums.items()}

    def state_dict(self, total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The sums so far; `total` adds them up over processes."""
        return {name: total(entry) for name, entry in self._sums.items()}

    def load_state_dict(
        self, state: Mapping[str, Tensor], device: torch.device, main: bool = True
    ) -> None:
        """Take back what `state_dict` gave; of several processes the `main` one has it all."""
        self._sums = {name: entry.to(device) * float(main) for name, entry in state.items()}
