"""Linear maps, normalisation and perceptrons of several columns at once, each with own weights.

Activations of columns are `[C, ..., F]`: a batched matrix product per map. Biases and gains are
stored as vectors, because optimizers exempt vectors from weight decay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: standard deviation of initial embeddings and learned vectors, as in GPT-2 (Radford et al. 2019)
INITIAL_STD = 0.02


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension, with a finite gradient at 0."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-4)


def initialise(weight: Tensor, inputs: int, gain: float = 1.0) -> None:
    """Draw a matrix of `inputs` rows or columns from N(0, gain^2 / inputs), in place.

    With gain 1, outputs have the mean square of the inputs at any width (LeCun et al. 1998). A
    constant of 0.02, GPT-2's for a width of 768, leaves gates and read-outs of narrow columns
    almost independent of their inputs, and memories almost without gradients at first.
    """
    nn.init.normal_(weight, std=gain * inputs**-0.5)


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
