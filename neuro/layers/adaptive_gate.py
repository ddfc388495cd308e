"""Adaptive gate: a mixture of two sequences, weighted for each step and head.

g = sigmoid(w_g . [(W_q l) * (W_k m)] / temperature + b_g)     one number per head
y = g l + (1 - g) m
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptiveGate(nn.Module):
    """Mix two tensors `[..., dim]`. Raises ValueError if the heads do not divide `dim`.

    temperature: above 0; a high one keeps weights near 1/2 at the start, where b_g is 0.
    """

    def __init__(self, dim: int, heads: int, temperature: float = 1.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: got {heads}; expected a divisor of the width {dim}")
        self.heads = heads
        self.temperature = temperature
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.weight = nn.Parameter(torch.empty(heads, dim // heads))
        self.bias = nn.Parameter(torch.zeros(heads))
        nn.init.normal_(self.weight, std=(dim // heads) ** -0.5)

    def gate(self, first: Tensor, second: Tensor) -> Tensor:
        """Weight of the first, `[..., heads]`, in (0, 1)."""
        product = (self.query(first) * self.key(second)).unflatten(-1, (self.heads, -1))
        return torch.sigmoid((product * self.weight).sum(-1) / self.temperature + self.bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        gate = self.gate(first, second)[..., None]
        first, second = (x.unflatten(-1, (self.heads, -1)) for x in (first, second))
        return (second + gate * (first - second)).flatten(-2)
