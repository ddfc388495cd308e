"""A language model of gated recurrent units (Cho et al. 2014), the recurrent baseline.

    r = sigmoid(W_r x + U_r h),   z = sigmoid(W_z x + U_z h)
    n = tanh(W_n x + r (U_n h)),  h <- (1 - z) n + z h

h is 0 at the first token of a document, which torch's fused GRU cannot do within a sequence; the
products with inputs are computed for all tokens at once, those with h token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, cast

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from neuro.config.types import Count, Depth
from neuro.data.base import TaskSpec
from neuro.models.base import ModelOutput
from neuro.models.language.base import LanguageModel


class GRUState(NamedTuple):
    """The last token `[B]` (-1: none), and hidden states of the layers `[B, layers, dim]`."""

    last: Tensor
    h: Tensor


class GRULayer(nn.Module):
    """One layer of width `dim` over `[B, T, dim]`."""

    def __init__(self, dim: int):
        super().__init__()
        self.inputs = nn.Linear(dim, 3 * dim)
        self.recurrent = nn.Linear(dim, 3 * dim)
        for linear in (self.inputs, self.recurrent):
            nn.init.uniform_(linear.weight, -(dim**-0.5), dim**-0.5)  # as in torch's GRU
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, h: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs `[B, T, dim]` and the last one; `keep` `[B, T, 1]` is 0 where h is reset."""
        outputs = []
        for gates, kept in zip(self.inputs(x).float().unbind(1), keep.unbind(1), strict=True):
            h = kept * h
            reset, update, new = gates.chunk(3, -1)
            own_reset, own_update, own_new = self.recurrent(h).float().chunk(3, -1)
            candidate = (new + (reset + own_reset).sigmoid() * own_new).tanh()
            h = torch.lerp(candidate, h, (update + own_update).sigmoid())
            outputs.append(h)
        return torch.stack(outputs, 1), h


class GRULM(LanguageModel):
    """`layers` GRU layers of width `dim`; `dropout`: of the inputs of each; `tied`: one matrix for
    embedding and scores.
    """

    def __init__(
        self,
        spec: TaskSpec,
        dim: Count = 256,
        layers: Depth = 2,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        tied: bool = False,
    ):
        super().__init__(spec, dim, tied)
        self.dim = dim
        self.dropout = dropout
        self.layers = nn.ModuleList(GRULayer(dim) for _ in range(layers))

    def initial_state(self, batch_size: int) -> GRUState:
        zeros = self.head.weight.new_zeros
        last = zeros(batch_size, dtype=torch.int64) - 1
        return GRUState(last, zeros(batch_size, len(self.layers), self.dim))

    def forward(
        self,
        inputs: Tensor,
        state: GRUState | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        state = self.initial_state(len(inputs)) if state is None else state
        keep = (~self.first_tokens(inputs, state.last))[..., None].to(state.h)
        x = F.rms_norm(self.embedding(inputs), (self.dim,))
        last = []
        for layer, h in zip(cast("list[GRULayer]", self.layers), state.h.unbind(1), strict=True):
            x, h = layer(F.dropout(x, self.dropout, self.training), h, keep)
            last.append(h)
        return ModelOutput(self.head(x), GRUState(inputs[:, -1], torch.stack(last, 1)), {})
