"""Running means on the device: numbers wait untouched, and are summed up now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from neuro.learning.objective import Loss

#: numbers of a name that wait until they are summed up in one operation
_WAITING = 64


class Meter:
    """Weighted means by name: a sum `[value * weight, weight]` of most, and those that wait."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._waiting: dict[str, list[tuple[Tensor, float | Tensor]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._sums)

    def add(self, name: str, value: Tensor, weight: float | Tensor) -> None:
        """Count a scalar `weight` times."""
        waiting = self._waiting.setdefault(name, [])
        waiting.append((value, weight))
        if len(waiting) == _WAITING:
            self._sums[name] = self._total(name)
            waiting.clear()

    def add_update(
        self, losses: Sequence[Loss], counts: Sequence[int], norm: Tensor | None
    ) -> None:
        """Count an update: the losses of its micro-batches of so many samples, and its gradient.

        Scores count as many targets as have a label.
        """
        for loss, count in zip(losses, counts, strict=True):
            self.add("loss", loss.reported, count)
            for name, judged in loss.scores.items():
                self.add(name, judged.mean(), judged.labelled)
            if len(loss.terms) > 1:
                for name, value in loss.terms.items():
                    self.add(name, value, count)
        if norm is not None:
            self.add("grad_norm", norm, 1)

    def read(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last reading; `total` adds sums up over processes.

        What was counted with no weight at all, such as scores without labels, has none.
        """
        sums = {name: total(self._total(name)).tolist() for name in self._waiting}
        self._sums, self._waiting = {}, {}
        return {name: value / weight for name, (value, weight) in sums.items() if weight}

    def state_dict(self) -> dict[str, Tensor]:
        """By name, on the CPU: the sum of most, then the value and weight of those that wait.

        They are summed up at the same places after a resume, so that roundings are the same.
        """
        return {
            name: torch.cat([self._sum(name)[None], self._stacked(name)]).cpu()
            for name in self._waiting
        }

    def load_state_dict(
        self, states: Sequence[Mapping[str, Tensor]], rank: int, processes: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        """Take back what `state_dict` gave in every process.

        Where there are more or fewer processes now, the first one gets the sums of all.
        """
        self._sums, self._waiting = {}, {}
        for name in states[0]:
            if len(states) == processes:
                kept, *waiting = states[rank][name].to(device)
                self._sums[name] = kept
                self._waiting[name] = [(row[0], float(row[1])) for row in waiting]
            else:
                sums = [_summed(state[name][0], state[name][1:]) for state in states]
                share = 1.0 if rank == 0 else 0.0
                self._sums[name] = share * torch.stack(sums).sum(0).to(device)
                self._waiting[name] = []

    def _sum(self, name: str) -> Tensor:
        """The sum of those that no longer wait, `[2]`."""
        if name in self._sums:
            return self._sums[name]
        like = self._waiting[name][0][0]
        return torch.zeros(2, dtype=torch.float64, device=like.device)

    def _stacked(self, name: str) -> Tensor:
        """Values and weights of those that wait, `[n, 2]`."""
        waiting = self._waiting[name]
        if not waiting:
            return self._sum(name).new_zeros(0, 2)
        values = torch.stack([value for value, _ in waiting]).double()
        given = [weight for _, weight in waiting]
        if any(isinstance(weight, Tensor) for weight in given):
            weights = torch.stack([torch.as_tensor(weight).to(values) for weight in given])
        else:
            weights = values.new_tensor(given)
        return torch.stack([values, weights], 1)

    def _total(self, name: str) -> Tensor:
        return _summed(self._sum(name), self._stacked(name))


def _summed(kept: Tensor, waiting: Tensor) -> Tensor:
    values, weights = waiting.unbind(1)
    return kept + torch.stack([values @ weights, weights.sum()])
