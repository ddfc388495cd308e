"""Recurrent cells of machine learning as SOEN layers, to compare and combine with dendrites.

A cell has its own weight matrices; the sum over incoming connections is its input. GRU and LSTM are
torch's cells; minGRU is that of Feng et al. 2024 (arXiv 2410.01201), with tanh on its candidate.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor, nn

from neuro.layers.soen.base import PassOptions, SoenLayer, SoenOutput, SoenState
from neuro.layers.soen.noise import LayerNoise
from neuro.ops.scan import linear_scan


class Cell(SoenLayer):
    """A recurrent cell with its own weight matrices and states within +-1."""

    def limit(self) -> Tensor | None:
        return torch.ones(())  # tanh bounds the states

    def advance(self, x_BN: Tensor, state: Any) -> Any:
        """The state after an input `[B, N]`."""
        raise NotImplementedError

    def step(
        self, phi_BN: Tensor, state: Any, dt: Tensor, noise: LayerNoise
    ) -> tuple[Any, dict[str, Tensor]]:
        phi_BN = noise.add("phi", phi_BN)
        state = self.advance(phi_BN, state)
        return state._replace(s=noise.add("s", state.s)), {"phi": phi_BN}


class RNN(Cell):
    """s = tanh(W x + U s + b) (Elman 1990)."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.cell = nn.RNNCell(dim, dim)

    def advance(self, x_BN: Tensor, state: SoenState) -> SoenState:
        return SoenState(self.cell(x_BN, state.s))


class GRU(Cell):
    """The gated recurrent unit (Cho et al. 2014)."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.cell = nn.GRUCell(dim, dim)

    def advance(self, x_BN: Tensor, state: SoenState) -> SoenState:
        return SoenState(self.cell(x_BN, state.s))


class LSTMState(NamedTuple):
    """Hidden state (output) s and cell state c, `[B, N]` each."""

    s: Tensor
    c: Tensor


class LSTM(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.cell = nn.LSTMCell(dim, dim)

    def initial_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self._zeros(batch_size), self._zeros(batch_size))

    def advance(self, x_BN: Tensor, state: LSTMState) -> LSTMState:
        return LSTMState(*self.cell(x_BN, tuple(state)))


class MinGRU(Cell):
    """s = (1 - z) s + z tanh(W_h x), z = sigmoid(W_z x): gates do not depend on the state."""

    fused_without_noise_on = ("s",)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.gate = nn.Linear(dim, dim)
        self.candidate = nn.Linear(dim, dim)

    def advance(self, x_BN: Tensor, state: SoenState) -> SoenState:
        z, candidate = self._gates(x_BN)
        return SoenState((1 - z) * state.s + z * candidate)

    def run_fused(
        self, phi_TBN: Tensor, state: Any, dt: Tensor, options: PassOptions
    ) -> SoenOutput:
        """Run all steps as one linear recurrence, whose coefficients depend on the inputs only."""
        z, candidate = self._gates(phi_TBN)
        s_TBN = linear_scan(1 - z, z * candidate, state.s)
        return SoenOutput(s_TBN, SoenState(s_TBN[-1]), {"phi": phi_TBN})

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(self.gate(x)), torch.tanh(self.candidate(x))


class LeakyGRU(Cell):
    """A GRU without reset gate whose state leaks.

    s = (1 - leak) ((1 - z) s + z tanh(W x + U s)), with z = sigmoid(W_z x + U_z s).
    """

    def __init__(self, dim: int, leak: Annotated[float, Interval(ge=0, le=1)] = 0.1):
        super().__init__(dim)
        self.leak = leak
        self.gate = nn.Linear(2 * dim, dim)
        self.candidate = nn.Linear(2 * dim, dim)

    def advance(self, x_BN: Tensor, state: SoenState) -> SoenState:
        both = torch.cat([x_BN, state.s], -1)
        z = torch.sigmoid(self.gate(both))
        return SoenState(
            (1 - self.leak) * ((1 - z) * state.s + z * torch.tanh(self.candidate(both)))
        )
