"""Causal attention over a window of the last tokens, within documents, with an explicit state.

    q_t = W_q x_t,   k_t = W_k x_t,   v_t = W_v x_t          (split into heads)
    y_t = W_o sum_s softmax_s(q_t . k_s / sqrt(d)) v_s,      s in (t - window, t], same document

Queries and keys may be rotated by angles proportional to their position (rotary embedding, Su et
al. 2021), so that scores depend on the distance t - s. The state holds keys and values of the last
window - 1 tokens in the order of time. (A ring buffer would save nothing: a given state is not
written to, and a copy with one slot replaced costs as much as a shifted one.)
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from neuro.layers.initial import INITIAL_STD

#: tokens of a window, with the token itself
Window = Annotated[int, Interval(ge=2, le=1 << 16)]


class WindowState(NamedTuple):
    """Keys and values of the last W - 1 tokens, `[N, W - 1, dim]`, the latest last."""

    keys: Tensor
    values: Tensor


class Reach(NamedTuple):
    """Which of the last tokens each token attends to, the same for all layers of a model.

    - `blocks`: queries `first` to before `end`, and a mask `[N, 1, end - first, W - 1 + end -
      first]` over the keys from W - 1 before the first to the last of them
    - `age` `[N]`: how many of the last W - 1 tokens belong to the current document, afterwards
    """

    blocks: tuple[tuple[int, int, Tensor], ...]
    age: Tensor

    @classmethod
    def of(cls, starts: Tensor, age: Tensor, window: int) -> Reach:
        """For tokens `[N, T]` of which `starts` are the first of a document; `age`: before them.

        Blocks have about the length of the window, so that time is linear in T.
        """
        past, steps = window - 1, starts.shape[1]
        if steps == 1:  # generation: all keys are within the window
            age = age.masked_fill(starts[:, 0], 0)
            mask = torch.arange(window, device=age.device) >= past - age[:, None]
            return cls(((0, 1, mask[:, None, None]),), (age + 1).clamp_max(past))
        number = starts.long().cumsum(1)
        index = torch.arange(past + steps, device=starts.device)
        # documents of all tokens in the buffer; -1 is none
        before = torch.where(index[:past] >= past - age[:, None], 0, -1)
        documents = torch.cat((before, number), 1)
        length = max(window, 64)
        blocks = []
        for first in range(0, steps, length):
            end = min(first + length, steps)
            keys = slice(first, past + end)
            mask = documents[:, past + first : past + end, None] == documents[:, None, keys]
            distance = index[past + first : past + end, None] - index[keys]
            mask = mask & (distance >= 0) & (distance < window)
            blocks.append((first, end, mask[:, None]))
        since = (number == number[:, -1:]).sum(1)
        age = torch.where(number[:, -1] > 0, since, age + since).clamp_max(past)
        return cls(tuple(blocks), age)


class WindowAttention(nn.Module):
    """Multi-head attention `[N, T, inputs]` to `[N, T, dim]` over the last `window` tokens.

    `window` includes the token itself. `std`: of the initial weights of the output. Raises
    ValueError for a dimension that the heads cannot share.
    """

    inverse_wavelengths: Tensor

    def __init__(
        self,
        inputs: int,
        dim: int,
        heads: int,
        window: int,
        rotary: bool = True,
        dropout: float = 0.0,
        std: float = INITIAL_STD,
    ):
        super().__init__()
        if dim % heads or (rotary and dim // heads % 2):
            even = " into parts of even width" if rotary else ""
            raise ValueError(f"heads: got {heads}; expected a divisor of the width {dim}{even}")
        self.dim = dim
        self.heads = heads
        self.window = window
        self.rotary = rotary
        self.dropout = dropout
        self.project = nn.Linear(inputs, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.project.weight, std=INITIAL_STD)
        nn.init.normal_(self.out.weight, std=std)
        width = dim // heads
        # not saved: a constant of the architecture
        self.register_buffer(
            "inverse_wavelengths",
            10000.0 ** (-torch.arange(0, width, 2) / width),
            persistent=False,
        )

    def initial_state(self, streams: int) -> WindowState:
        """An empty window."""
        empty = self.out.weight.new_zeros(streams, self.window - 1, self.dim)
        return WindowState(empty, empty.clone())

    def forward(
        self, x: Tensor, state: WindowState, reach: Reach, source: Tensor | None = None
    ) -> tuple[Tensor, WindowState]:
        """Outputs `[N, T, dim]` and the next state.

        source: `[N, T, inputs]`, of which keys and values are made; None: of x (self-attention).
        """
        past = self.window - 1
        if source is None:
            queries, keys, values = self.project(x).chunk(3, -1)
        else:
            own, other = self.project.weight.split((self.dim, 2 * self.dim))
            queries = F.linear(x, own)
            keys, values = F.linear(source, other).chunk(2, -1)
        keys = torch.cat((state.keys.to(keys.dtype), keys), 1)
        values = torch.cat((state.values.to(values.dtype), values), 1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values)
        )
        if self.rotary:
            angles = torch.arange(k.shape[2], device=x.device)[:, None] * self.inverse_wavelengths
            sin, cos = angles.sin().to(k.dtype), angles.cos().to(k.dtype)
            q, k = _rotated(q, sin[past:], cos[past:]), _rotated(k, sin, cos)
        outputs = [
            F.scaled_dot_product_attention(
                q[:, :, first:end],
                k[:, :, first : past + end],
                v[:, :, first : past + end],
                mask,
                dropout_p=self.dropout if self.training else 0.0,
            )
            for first, end, mask in reach.blocks
        ]
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
        kept = slice(keys.shape[1] - past, None)
        next_state = WindowState(keys[:, kept].to(state.keys), values[:, kept].to(state.values))
        return self.out(y.transpose(1, 2).flatten(2)), next_state


def _rotated(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """`[N, heads, T, width]` rotated by angles `[T, width / 2]`."""
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)
