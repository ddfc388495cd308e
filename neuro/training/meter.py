"""Running means and metrics on the device, without synchronisation between two readings.

Values are stored as they come and summed in blocks, because a sum at every update would start
several kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuro.learning.metrics import Metric
from neuro.learning.objective import Loss

#: rows of a name that are stored before they are summed in one operation
_BLOCK = 64

#: prefix of the weighted losses of terms, of which a reading gives the sum
_PART = "loss:"

Total = Callable[[Tensor], Tensor]


class Meter:
    """Weighted means by name, and metrics by their sums.

    Each name has a sum `[n]` and the rows that have not been added to it yet. A row of a mean is
    (value, weight), its sum (sum of value * weight, sum of weights). A row of a metric is what
    `Metric.sums` returns.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None) -> None:
        self._metrics = metrics or {}
        self._sums: dict[str, Tensor] = {}
        self._means: dict[str, list[tuple[Tensor, float | Tensor]]] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._means or self._rows)

    def add(self, name: str, value: Tensor, weight: float | Tensor) -> None:
        """Add a scalar with a weight to a mean."""
        rows = self._means.setdefault(name, [])
        rows.append((value, weight))
        if len(rows) == _BLOCK:
            self._sums[name] = self._total(name)
            rows.clear()

    def add_sums(self, name: str, sums: Tensor) -> None:
        """Add the sums of a metric."""
        rows = self._rows.setdefault(name, [])
        rows.append(sums)
        if len(rows) == _BLOCK:
            self._sums[name] = self._total(name)
            rows.clear()

    def add_update(
        self, losses: Sequence[Loss], norm: Tensor | None, made: bool | Tensor = True
    ) -> None:
        """Add the losses of an update's micro-batches and the norm of its gradient.

        The loss is the sum of the weighted terms, each a mean over its own count. `made` may be a
        boolean on the device; an update that was skipped adds nothing.
        """

        def add(name: str, value: Tensor, weight: float | Tensor) -> None:
            if isinstance(made, Tensor):
                value, weight = torch.where(made, value, 0), weight * made
            self.add(name, value, weight)

        for loss in losses:
            if loss.task is not None:
                add("loss", *loss.task)
            several = len(loss.terms) > 1
            for name, term in loss.terms.items():
                if loss.task is None:
                    weighted = term.mean if term.weight == 1 else term.weight * term.mean
                    add(f"{_PART}{name}" if several else "loss", weighted, term.counted)
                if several:
                    add(name, term.mean, term.counted)
                for key, value in term.logged.items():
                    add(f"{name}/{key}", value, term.counted)
            for name, sums in loss.metrics.items():
                self.add_sums(
                    name, torch.where(made, sums, 0) if isinstance(made, Tensor) else sums
                )
        if norm is not None:
            add("grad_norm", norm, 1)

    def read(self, total: Total) -> dict[str, float]:
        """Means and metrics since the last reading; `total` sums a tensor over processes.

        Names whose weights sum to 0, such as metrics without labels, are left out.
        """
        sums = {name: total(self._total(name)).cpu() for name in (*self._means, *self._rows)}
        self._sums, self._means, self._rows = {}, {}, {}
        values: dict[str, float] = {}
        for name, summed in sums.items():
            if summed[-1] > 0:
                metric = self._metrics.get(name)
                mean = float(summed[0]) / float(summed[-1])
                values[name] = mean if metric is None else metric.value(summed)
        parts = [values.pop(name) for name in list(values) if name.startswith(_PART)]
        if parts:
            values = {"loss": sum(parts), **{n: v for n, v in values.items() if n != "loss"}}
        return values

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """By name, on the CPU: the sum followed by the rows not added yet, `[1 + rows, n]`.

        Rows stay apart so that a resumed run adds the same blocks, with the same rounding.
        """
        rows = {
            name: torch.cat([self._sum(name)[None], self._stacked(name)]).cpu()
            for name in (*self._means, *self._rows)
        }
        return {
            "means": {name: rows[name] for name in self._means},
            "rows": {name: rows[name] for name in self._rows},
        }

    def load_state_dict(
        self,
        states: Sequence[Mapping[str, Mapping[str, Tensor]]],
        rank: int,
        processes: int,
        device: torch.device,
    ) -> None:
        """Load the results of `state_dict` of all processes.

        If the number of processes has changed, the first one gets the sums of all.
        """
        self._sums, self._means, self._rows = {}, {}, {}
        states = [self._means_and_rows(state) for state in states]
        same = len(states) == processes
        for name in states[0]["means"]:
            saved = [state["means"][name].to(device) for state in states]
            rows = saved[rank] if same else _first(saved, _summed_means, rank)
            self._sums[name] = rows[0]
            self._means[name] = [(row[0], float(row[1])) for row in rows[1:]]
        for name in states[0]["rows"]:
            saved = [state["rows"][name].to(device) for state in states]
            rows = saved[rank] if same else _first(saved, _summed_rows, rank)
            self._sums[name], self._rows[name] = rows[0], list(rows[1:])

    def _means_and_rows(self, state: Mapping[str, Any]) -> Mapping[str, Mapping[str, Tensor]]:
        """A saved state in today's form; older versions saved metrics as means, too."""
        if "means" in state:
            return state
        rows = {}
        for name in state.keys() & self._metrics.keys():
            (kept, *_), values, weights = state[name], state[name][1:, 0], state[name][1:, 1]
            rows[name] = torch.cat([kept[None], torch.stack([values * weights, weights], 1)])
        return {"means": {n: x for n, x in state.items() if n not in rows}, "rows": rows}

    def _sum(self, name: str) -> Tensor:
        """The sum of the rows of finished blocks, `[n]`."""
        if name in self._sums:
            return self._sums[name]
        like = self._means[name][0][0] if name in self._means else self._rows[name][0]
        size = 2 if name in self._means else len(like)
        return torch.zeros(size, dtype=torch.float64, device=like.device)

    def _stacked(self, name: str) -> Tensor:
        """The rows that have not been added to the sum, `[rows, n]`."""
        if name in self._rows:
            rows = self._rows[name]
            return torch.stack(rows) if rows else self._sum(name).new_zeros(0, len(self._sum(name)))
        means = self._means[name]
        if not means:
            return self._sum(name).new_zeros(0, 2)
        values = torch.stack([value for value, _ in means]).double()
        given = [weight for _, weight in means]
        if any(isinstance(weight, Tensor) for weight in given):
            weights = torch.stack([torch.as_tensor(weight).to(values) for weight in given])
        else:
            weights = values.new_tensor(given)
        return torch.stack([values, weights], 1)

    def _total(self, name: str) -> Tensor:
        """The sum of all rows, `[n]`."""
        summed = _summed_rows if name in self._rows else _summed_means
        return summed(self._sum(name), self._stacked(name))


def _summed_means(kept: Tensor, rows: Tensor) -> Tensor:
    values, weights = rows.unbind(1)
    return kept + torch.stack([values @ weights, weights.sum()])


def _summed_rows(kept: Tensor, rows: Tensor) -> Tensor:
    return kept + rows.sum(0)


def _first(
    saved: Sequence[Tensor], summed: Callable[[Tensor, Tensor], Tensor], rank: int
) -> Tensor:
    """The sums of all processes on the first one, zeros on the others: `[1, n]`."""
    total = torch.stack([summed(state[0], state[1:]) for state in saved]).sum(0, keepdim=True)
    return total if rank == 0 else torch.zeros_like(total)
