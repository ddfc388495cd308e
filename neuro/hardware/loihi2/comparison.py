"""Comparison of two runs on the same samples: agreement and first difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: spikes `[T, B, ...]` by layer, as tensors or arrays
Spikes = Mapping[str, Any]


class Agreement:
    """Fractions of equal decisions, and of equal spikes by layer, over all samples added so far."""

    def __init__(self) -> None:
        self._decisions = _Counter()
        self._spikes: dict[str, _Counter] = {}

    def add(
        self,
        classes: Tensor,
        others: Tensor,
        spikes: Spikes,
        other_spikes: Spikes,
        lengths: Tensor | None = None,
    ) -> None:
        """Add decisions `[B]` and spikes of both runs; layers of only one of them are ignored.

        lengths: steps of each sample `[B]`, of which the rest is padding and is ignored.
        """
        self._decisions.add(classes == others)
        for name in spikes:
            if name in other_spikes:
                one, other = (torch.as_tensor(s[name]).bool() for s in (spikes, other_spikes))
                equal = one == other
                if lengths is not None:
                    equal = equal[torch.arange(len(equal))[:, None] < lengths]
                self._spikes.setdefault(name, _Counter()).add(equal)

    def as_json(self) -> dict[str, Any]:
        """Fractions of equal decisions, and of equal neuron-steps by layer."""
        return {
            "predictions": self._decisions.fraction,
            "spikes": {name: counter.fraction for name, counter in self._spikes.items()},
        }


class _Counter:
    """Number of equal values among all."""

    def __init__(self) -> None:
        self.equal = self.total = 0

    def add(self, equal: Tensor) -> None:
        self.equal += int(equal.sum())
        self.total += equal.numel()

    @property
    def fraction(self) -> float:
        return self.equal / self.total


class Difference(NamedTuple):
    """First difference of two recordings; `neuron` is an index into the layer's shape."""

    step: int
    layer: str
    sample: int
    neuron: tuple[int, ...]
    values: tuple[int, int]

    def __str__(self) -> str:
        neuron = ", ".join(map(str, self.neuron))
        return (
            f"step {self.step}, layer '{self.layer}', sample {self.sample}, neuron [{neuron}]: "
            f"{self.values[0]} and {self.values[1]}"
        )


def first_difference(
    one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]
) -> Difference | None:
    """Find the first step at which two recordings differ, and the first layer that differs in it.

    one, other: arrays `[T, B, ...]` by layer, in the order of computation. None if they are equal.
    ValueError for different layers or shapes.
    """
    if list(one) != list(other):
        raise ValueError(f"layers differ: {', '.join(one)}; and {', '.join(other)}.")
    found: list[tuple[int, int, str]] = []
    for place, (name, array) in enumerate(one.items()):
        if array.shape != other[name].shape:
            shapes = f"{list(array.shape)} and {list(other[name].shape)}"
            raise ValueError(f"shapes of layer '{name}' differ: {shapes}.")
        differs = (array != other[name]).any(axis=tuple(range(1, array.ndim)))
        if differs.any():
            found.append((int(differs.argmax()), place, name))
    if not found:
        return None
    step, _, name = min(found)  # by step, then by the order of layers
    a, b = one[name][step], other[name][step]
    sample, *neuron = (int(i[0]) for i in np.nonzero(a != b))
    index = sample, *neuron
    return Difference(step, name, sample, tuple(neuron), (int(a[index]), int(b[index])))
