"""Running means on the device: numbers are added without waiting for them, and read later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from neuro.learning.objective import Loss


class Meter:
    """Weighted means by name, kept as pairs of sums `[value * weight, weight]`."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, name: str, value: Tensor, weight: int) -> None:
        """Count a scalar `weight` times."""
        zero = value.new_zeros((), dtype=torch.float64), 0.0
        total, count = self._sums.get(name, zero)
        self._sums[name] = torch.add(total, value, alpha=weight), count + weight

    def add_update(
        self, losses: Sequence[Loss], counts: Sequence[int], norm: Tensor | None
    ) -> None:
        """Count an update: the losses of its micro-batches of so many samples, and its gradient."""
        for loss, count in zip(losses, counts, strict=True):
            self.add("loss", loss.reported, count)
            for name, value in loss.scores.items():
                self.add(name, value, count)
            if len(loss.terms) > 1:
                for name, value in loss.terms.items():
                    self.add(name, value, count)
        if norm is not None:
            self.add("grad_norm", norm, 1)

    def read(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last reading; `total` adds sums up over processes."""
        sums = {name: total(entry).tolist() for name, entry in self._entries().items()}
        self._sums = {}
        return {name: value / weight for name, (value, weight) in sums.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The sums so far, on the CPU."""
        return {name: entry.cpu() for name, entry in self._entries().items()}

    def _entries(self) -> dict[str, Tensor]:
        return {n: torch.stack([x, x.new_tensor(count)]) for n, (x, count) in self._sums.items()}

    def load_state_dict(
        self, states: Sequence[Mapping[str, Tensor]], rank: int, processes: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        """Take back what `state_dict` gave in every process.

        Where there are more or fewer processes now, the first one gets the sums of all.
        """
        if len(states) == processes:
            sums = dict(states[rank])
        else:
            share = 1.0 if rank == 0 else 0.0
            names = states[0]
            sums = {n: share * torch.stack([state[n] for state in states]).sum(0) for n in names}
        self._sums = {name: (entry.to(device)[0], float(entry[1])) for name, entry in sums.items()}
