"""A plain modern transformer decoder, the baseline of language models with memory.

    x <- x + Attention(RMSNorm(x)),   x <- x + W_2 gelu(W_1 RMSNorm(x)),   scores = W RMSNorm(x)

with rotary positions, without biases, initialised as GPT-2: normal with standard deviation 0.02,
outputs of residual branches divided by sqrt(2 layers). Attention reaches back over a window of
tokens, also into earlier updates: keys and values of the last window - 1 tokens are the state. One
token at a time gives what a whole sequence gives, at a constant cost per token.
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
from neuro.layers.attention import Reach, Window, WindowAttention, WindowState
from neuro.layers.initial import INITIAL_STD
from neuro.models.base import ModelOutput
from neuro.models.language.base import LanguageModel


class TransformerState(NamedTuple):
    """The last token `[B]` (-1: none), tokens in the window `[B]`, and the window of each layer."""

    last: Tensor
    age: Tensor
    windows: tuple[WindowState, ...]


class Block(nn.Module):
    """Attention and an MLP with four times the width, each with pre-normalisation."""

    def __init__(self, dim: int, heads: int, window: int, dropout: float, std: float):
        super().__init__()
        self.dropout = dropout
        self.attention_norm = nn.RMSNorm(dim)
        self.attention = WindowAttention(dim, dim, heads, window, dropout=dropout, std=std)
        self.norm = nn.RMSNorm(dim)
        self.hidden = nn.Linear(dim, 4 * dim, bias=False)
        self.out = nn.Linear(4 * dim, dim, bias=False)
        nn.init.normal_(self.hidden.weight, std=INITIAL_STD)
        nn.init.normal_(self.out.weight, std=std)

    def forward(self, x: Tensor, state: WindowState, reach: Reach) -> tuple[Tensor, WindowState]:
        y, state = self.attention(self.attention_norm(x), state, reach)
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.out(F.gelu(self.hidden(self.norm(x))))
        return x + F.dropout(y, self.dropout, self.training), state


class TransformerLM(LanguageModel):
    """A decoder with `layers` of width `dim`, and `heads` that attend to `window` tokens.

    - `dropout`: of embeddings, attention and residual branches
    - `tied`: one matrix for embedding and scores
    - `across_documents`: attend to earlier documents, too
    """

    def __init__(
        self,
        spec: TaskSpec,
        dim: Count = 128,
        layers: Depth = 4,
        heads: Count = 4,
        window: Window = 64,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        tied: bool = False,
        across_documents: bool = False,
    ):
        super().__init__(spec, dim, tied)
        self.window = window
        self.dropout = dropout
        self.across_documents = across_documents
        std = INITIAL_STD * (2 * layers) ** -0.5
        self.blocks = nn.ModuleList(Block(dim, heads, window, dropout, std) for _ in range(layers))
        self.norm = nn.RMSNorm(dim)

    def initial_state(self, batch_size: int) -> TransformerState:
        count = self.head.weight.new_zeros(batch_size, dtype=torch.int64)
        windows = tuple(block.attention.initial_state(batch_size) for block in self._blocks())
        return TransformerState(count - 1, count, windows)

    def forward(
        self,
        inputs: Tensor,
        state: TransformerState | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        state = self.initial_state(len(inputs)) if state is None else state
        starts = self.first_tokens(inputs, state.last)
        if self.across_documents:
            starts = torch.zeros_like(starts)
        reach = Reach.of(starts, state.age, self.window)
        x = F.dropout(self.embedding(inputs), self.dropout, self.training)
        windows = []
        for block, window in zip(self._blocks(), state.windows, strict=True):
            x, after = block(x, window, reach)
            windows.append(after)
        after_all = TransformerState(inputs[:, -1], reach.age, tuple(windows))
        return ModelOutput(self.head(self.norm(x)), after_all, {})

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))
