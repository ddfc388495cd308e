"""Linear maps, normalisation and perceptrons of several columns at once, each with own weights.

Activations of columns are `[C, ..., F]`: a batched matrix product per map. Biases and gains are
stored as vectors, because optimizers exempt vectors from weight decay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.initial import initialise


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension, with a finite gradient at 0."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-4)


def within_budget(strengths: Tensor, budget: float) -> Tensor:
    """Strengths `[..., slots]` scaled down to the sum `budget` where they exceed it."""
    total = strengths.sum(-1, keepdim=True)
    return strengths * (budget / total.clamp_min(budget))


class ColumnLinear(nn.Module):
    """y = x W + b for each column: `[C, ..., inputs]` to `[C, ..., outputs]`.

    Weights begin normally distributed (`initialise`), biases at zero.
    """

    def __init__(
        self, columns: int, inputs: int, outputs: int, bias: bool = True, gain: float = 1.0
    ):
        super().__init__()
        self.columns = columns
        self.weight = nn.Parameter(torch.empty(columns, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(columns * outputs)) if bias else None
        initialise(self.weight, inputs, gain)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, -2)
        y = torch.bmm(rows, self.weight)
        if self.bias is not None:  # in place: baddbmm takes twice the time on a CPU
            y = y.add_(self.bias.view(self.columns, 1, -1))
        return y.view(*x.shape[:-1], -1)


class ColumnNorm(nn.Module):
    """Layer normalisation of `[C, ..., width]` with the gains and biases of each column."""

    def __init__(self, columns: int, width: int):
        super().__init__()
        self.columns = columns
        self.width = width
        self.gain = nn.Parameter(torch.ones(columns * width))
        self.bias = nn.Parameter(torch.zeros(columns * width))

    def forward(self, x: Tensor) -> Tensor:
        if self.columns == 1:
            return F.layer_norm(x, (self.width,), self.gain, self.bias)
        shape = (self.columns, *(1,) * (x.ndim - 2), self.width)
        normal = F.layer_norm(x, (self.width,))
        return torch.addcmul(self.bias.view(shape), normal, self.gain.view(shape))


class ColumnPerceptron(nn.Module):
    """MLP(LN(x)) of each column with one hidden layer of GELU units.

    GELU is the approximation by tanh, as in GPT-2: on a CPU it starts three times as fast.
    `gain`: of the initial weights of the output, which is added to a residual stream.
    """

    def __init__(self, columns: int, width: int, hidden: int, gain: float = 1.0):
        super().__init__()
        self.norm = ColumnNorm(columns, width)
        self.hidden = ColumnLinear(columns, width, hidden)
        self.out = ColumnLinear(columns, hidden, width, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.gelu(self.hidden(self.norm(x)), approximate="tanh"))
        return y
