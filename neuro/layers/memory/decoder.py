"""The spatial decoder: attention over the layers of each column, then over columns and memories.

For each token on its own:

    z_c = queries of column c, attending to the outputs of its L layers          (width D_h)
    z   = queries, attending to M = {P z_c} and summaries of the memories        (width dim)
    z   = further decoder layers over M;   result: W_out mean(z)                 (width D)

Each stage is a standard decoder layer with pre-normalisation: attention among the queries,
attention to the set, and an MLP with four times the width. The result is added to the columns' last
outputs before the scores of the tokens are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from neuro.config.types import STRICT
from neuro.layers.initial import INITIAL_STD, initialise
from neuro.layers.memory.columns import ColumnLinear, ColumnNorm, ColumnPerceptron


@dataclass(frozen=True)
class Decoder:
    """Settings: width, heads, layers after the two stages, and queries of each stage."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    dim: Annotated[int, Ge(1)]
    heads: Annotated[int, Ge(1)]
    layers: Annotated[int, Interval(ge=1, le=1000)]
    queries: Annotated[int, Ge(1)] = 2

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"heads: got {self.heads}; expected a divisor of dim ({self.dim})")


class DecoderLayer(nn.Module):
    """Queries `[G, R or 1, Q, width]` that attend to themselves and to sets `[G, R, S, width]`.

    G groups have weights of their own; R are tokens. `gain`: of the initial weights of outputs.
    """

    def __init__(self, groups: int, width: int, heads: int, gain: float):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(ColumnNorm(groups, width) for _ in range(3))
        self.own = ColumnLinear(groups, width, 3 * width, bias=False)
        self.own_out = ColumnLinear(groups, width, width, bias=False, gain=gain)
        self.query = ColumnLinear(groups, width, width, bias=False)
        self.set = ColumnLinear(groups, width, 2 * width, bias=False)
        self.set_out = ColumnLinear(groups, width, width, bias=False, gain=gain)
        self.feedforward = ColumnPerceptron(groups, width, 4 * width, gain)

    def forward(self, z: Tensor, members: Tensor) -> Tensor:
        own = self.own(self.norms[0](z)).chunk(3, -1)
        # a single query can only attend to itself
        z = z + self.own_out(self._attend(*own) if z.shape[2] > 1 else own[2])
        keys, values = self.set(self.norms[2](members)).chunk(2, -1)
        z = z + self.set_out(self._attend(self.query(self.norms[1](z)), keys, values))
        return z + self.feedforward(z)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of `[G, R, Q, width]` to `[G, R, S, width]`.

        By elementwise products: Q and S are so small that a matrix product per token is slower.
        """
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (queries, keys, values))
        scores = (q[:, :, :, None] * k[:, :, None]).sum(-1).float() * q.shape[-1] ** -0.5
        weights = scores.softmax(-2).to(v)
        return (weights[..., None] * v[:, :, None]).sum(3).flatten(-2)


class SpatialDecoder(nn.Module):
    """The decoder of C columns of width D_h with L layers.

    `memories`: widths of the summaries of working, procedural and (if there is one) episodic
    memory, in the order in which `forward` takes the summaries
    """

    def __init__(
        self, columns: int, width: int, depth: int, memories: tuple[int, ...], settings: Decoder
    ):
        super().__init__()
        dim, queries = settings.dim, settings.queries
        gain = (2 * settings.layers) ** -0.5
        head = dim // settings.heads
        inner = max(1, width // head) if width % head == 0 else 1
        self.places = nn.Parameter(torch.empty(columns, 1, depth, width))
        self.inner_queries = nn.Parameter(torch.empty(columns, 1, queries, width))
        self.inner = DecoderLayer(columns, width, inner, gain)
        self.column = nn.Linear(width, dim)
        self.origins = nn.Parameter(torch.empty(columns * queries + len(memories), dim))
        self.memories = nn.ModuleList(nn.Linear(memory, dim) for memory in memories)
        self.queries = nn.Parameter(torch.empty(1, 1, queries, dim))
        self.layers = nn.ModuleList(
            DecoderLayer(1, dim, settings.heads, gain) for _ in range(1 + settings.layers)
        )
        self.out = nn.Linear(dim, columns * width)
        for parameter in (self.places, self.inner_queries, self.origins, self.queries):
            nn.init.normal_(parameter, std=INITIAL_STD)
        for linear in (self.column, *self.memories):
            initialise(linear.weight, linear.in_features)
            nn.init.zeros_(linear.bias)
        initialise(self.out.weight, dim, gain)
        nn.init.zeros_(self.out.bias)

    def forward(self, outputs_CRLh: Tensor, memories: tuple[Tensor, ...]) -> Tensor:
        """`[R, D]` for R tokens, from the layers' outputs and memory summaries `[R, width]`."""
        # the queries' attention among themselves is the same for all tokens: one row of it
        z = self.inner(self.inner_queries.to(outputs_CRLh), outputs_CRLh + self.places)
        columns = self.column(z).permute(1, 0, 2, 3).flatten(1, 2)
        summaries = [m(x)[:, None] for m, x in zip(self.memories, memories, strict=True)]
        members = torch.cat((columns, *(s.to(columns) for s in summaries)), 1) + self.origins
        members, z = members[None], self.queries.to(columns)
        for layer in self.layers:
            z = layer(z, members)
        y: Tensor = self.out(F.layer_norm(z[0].mean(1), z.shape[-1:]))
        return y
