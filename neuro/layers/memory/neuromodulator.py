"""Neuromodulators: small networks that set the parameters of a memory's writes.

Their outputs begin calibrated: the biases of the last layer are the inverse images of the values
given, and its weights are small, so that inputs change outputs by a few percent at first. They are
set here, by the module itself; no initialisation of the whole model touches them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.memory.columns import ColumnLinear


class Signal(NamedTuple):
    """An output of a neuromodulator: `size` values that begin at `start`.

    `kind`: fraction (0 to 1, logistic), positive (exponential) or score (any number)
    """

    name: str
    kind: Literal["fraction", "positive", "score"]
    start: float
    size: int = 1

    @property
    def bias(self) -> float:
        """The value before the output function at which the output is `start`."""
        if self.kind == "fraction":
            return math.log(self.start / (1 - self.start))
        return math.log(self.start) if self.kind == "positive" else self.start

    def __call__(self, raw: Tensor) -> Tensor:
        if self.kind == "fraction":
            return raw.sigmoid()
        # factors of 50 in both directions, beyond which a temperature changes nothing
        return raw.clamp(-4, 4).exp() if self.kind == "positive" else raw


class Neuromodulator(nn.Module):
    """Inputs `[C, ..., I]` to signals by name, `[C, ..., size]` each, with weights per column."""

    def __init__(self, columns: int, inputs: int, signals: Sequence[Signal], hidden: int = 16):
        super().__init__()
        self.signals = tuple(signals)
        outputs = sum(signal.size for signal in signals)
        self.hidden = ColumnLinear(columns, inputs, hidden)
        self.out = ColumnLinear(columns, hidden, outputs, gain=0.04)
        start = [signal.bias for signal in signals for _ in range(signal.size)]
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor(start).repeat(columns))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        raw = self.out(F.gelu(self.hidden(inputs), approximate="tanh")).float()
        parts = raw.split([signal.size for signal in self.signals], -1)
        return {s.name: s(part) for s, part in zip(self.signals, parts, strict=True)}
