"""Mamba block (Gu and Dao 2023, arXiv 2312.00752, figure 3) with an explicit state.

    u, z = W_in x                                    width E = expand * dim each
    u    = SiLU(conv(u))                             causal, depthwise, over the last K steps
    dt   = softplus(W_dt r + b_dt),  (r, B, C) = W_x u
    y    = selective_scan(u, dt, -exp(A_log), B, C, D)
    out  = W_out (y * SiLU(z))

Parameters have the names and, but for A_log, the shapes of the authors' code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.ops.selective_scan import selective_scan

#: step sizes at the start are log-uniform in this range (Gu and Dao 2023, section 3.6)
INITIAL_DT = (1e-3, 1e-1)
#: exp of it is a decay within a step that no float32 distinguishes from 0; larger values overflow
MAX_A_LOG = 20.0


class MambaState(NamedTuple):
    """Last K - 1 inputs of the convolution `[B, K - 1, E]` and states of the scan `[B, E, N]`."""

    inputs: Tensor
    h: Tensor


class MambaBlock(nn.Module):
    """Map `[T, B, dim]` to `[T, B, dim]`.

    state_size: N, states per feature. conv_steps: K >= 1, steps that the convolution covers.
    expand: inner width over dim. The rank of the step-size projection is ceil(dim / 16).
    """

    def __init__(self, dim: int, state_size: int = 16, conv_steps: int = 4, expand: int = 2):
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.rank = rank
        self.state_size = state_size
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv_steps, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        # a vector, because optimizers exempt vectors from weight decay
        self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(inner))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        low, high = map(math.log, INITIAL_DT)
        dt = torch.empty(inner).uniform_(low, high).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def initial_state(self, batch_size: int) -> MambaState:
        """Zeros: no input before the first."""
        inner, _, steps = self.conv1d.weight.shape
        zeros = self.D.new_zeros
        return MambaState(
            zeros(batch_size, steps - 1, inner), zeros(batch_size, inner, self.state_size)
        )

    def forward(
        self, x_TBD: Tensor, state: MambaState | None = None, shift_TBN: Tensor | None = None
    ) -> tuple[Tensor, MambaState]:
        """Outputs `[T, B, dim]` and the next state.

        shift_TBN: `[T, B, 2 N]`, added to B and C; for models that modulate the block.
        """
        if state is None:
            state = self.initial_state(x_TBD.shape[1])
        u, z = self.in_proj(x_TBD).chunk(2, -1)
        u = torch.cat((state.inputs.transpose(0, 1).to(u), u))
        kept = u[len(u) - state.inputs.shape[1] :].transpose(0, 1).to(state.inputs)
        u = F.silu(self._convolved(u))
        low_rank, B, C = self.x_proj(u).split((self.rank, self.state_size, self.state_size), -1)
        if shift_TBN is not None:
            shift_B, shift_C = shift_TBN.chunk(2, -1)
            B, C = B + shift_B, C + shift_C
        # not in bfloat16, whose 8 bits are too few for decays close to 1
        dt = F.softplus(self.dt_proj(low_rank).to(self.D.dtype))
        A = -self.A_log.clamp(max=MAX_A_LOG).exp().view(-1, self.state_size)
        y, h = selective_scan(u, dt, A, B, C, self.D, state.h)
        return self.out_proj(y * F.silu(z)), MambaState(kept, h)

    def _convolved(self, u: Tensor) -> Tensor:
        """Steps K - 1 and later of the convolution over `u` `[K - 1 + T, B, E]`.

        By shifted products: for few steps, faster on a CPU than the transposes of a convolution.
        """
        weight = self.conv1d.weight[:, 0]
        steps = len(u) - weight.shape[1] + 1
        assert self.conv1d.bias is not None
        y = self.conv1d.bias.expand(steps, *u.shape[1:]).to(u)
        for k, w in enumerate(weight.unbind(1)):
            y = torch.addcmul(y, u[k : k + steps], w.to(u))
        return y
