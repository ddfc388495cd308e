"""How far apart two runs of the same samples are: decisions, and spikes in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: `[T, B, ...]` by layer, in whatever form a run has them
Spikes = Mapping[str, Any]


class Agreement:
    """The share of equal decisions, and of equal spikes by layer, over the samples seen so far."""

    def __init__(self) -> None:
        self._decisions = _Share()
        self._spikes: dict[str, _Share] = {}

    def add(self, classes: Tensor, others: Tensor, spikes: Spikes, other_spikes: Spikes) -> None:
        """Decisions `[B]` and spikes of both; layers that only one side has are left out."""
        self._decisions.add(classes == others)
        for name in spikes:
            if name in other_spikes:
                one, other = (torch.as_tensor(s[name]).bool() for s in (spikes, other_spikes))
                self._spikes.setdefault(name, _Share()).add(one == other)

    def as_json(self) -> dict[str, Any]:
        """Fractions: of decisions, and of neuron-steps by layer."""
        return {
            "predictions": self._decisions.fraction,
            "spikes": {name: share.fraction for name, share in self._spikes.items()},
        }


class _Share:
    """Counts of what was equal."""

    def __init__(self) -> None:
        self.equal = self.total = 0

    def add(self, equal: Tensor) -> None:
        self.equal += int(equal.sum())
        self.total += equal.numel()

    @property
    def fraction(self) -> float:
        return self.equal / self.total
