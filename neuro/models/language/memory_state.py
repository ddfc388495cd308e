"""Sizes and state of memory_lm, and what it computes before it runs the spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from neuro.config.types import STRICT, Count, Depth
from neuro.layers.attention import WindowState
from neuro.layers.memory.decoder import Decoder
from neuro.layers.memory.episodic import Episodic, EpisodicState
from neuro.layers.memory.procedural import Procedural, ProceduralState
from neuro.layers.memory.working import Working


@dataclass(frozen=True)
class Tier:
    """Sizes: width D of the embedding, `layers` per column, `columns`, and those of the memories.

    `episodic=None`: without episodic memory.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    dim: Count
    layers: Depth
    columns: Count
    working: Working
    procedural: Procedural
    episodic: Episodic | None
    decoder: Decoder

    def __post_init__(self) -> None:
        if self.dim % self.columns:
            raise ValueError(f"columns: got {self.columns}; expected a divisor of dim ({self.dim})")


class MemoryState(NamedTuple):
    """State between two tokens.

    - `last` `[B]`: the last token, -1 before the first one
    - `scores` `[B, V]`: its scores of the next token
    - `sigma` `[B]`: mean surprise of the previous span
    - `surprise`, `surprising` `[B]`: sum over the current span so far, and number of its terms
    - `age` `[B]`: tokens in the working memory
    - `h` `[B, L C, D_h]`: hidden states of all columns of the first layer, then of the second, ...
    - `procedural`: their memories, in the same order
    - `episodic`: None for a model without episodic memory
    - `position`: tokens of the current span so far, the same for all sequences
    """

    last: Tensor
    scores: Tensor
    sigma: Tensor
    surprise: Tensor
    surprising: Tensor
    age: Tensor
    working: WindowState
    h: Tensor
    procedural: ProceduralState
    episodic: EpisodicState | None
    position: int


class Tokens(NamedTuple):
    """What is known of tokens before the spans are run, `[B, T, ...]` or `[C, B, T, ...]`."""

    inputs: Tensor
    x: Tensor
    y_wm: Tensor
    working: Tensor
    queries: Tensor | None = None
    keys: Tensor | None = None

    def part(self, part: slice) -> Tokens:
        """Some of the tokens."""
        return Tokens(
            self.inputs[:, part],
            self.x[:, :, part],
            self.y_wm[:, part],
            self.working[:, :, part],
            None if self.queries is None else self.queries[:, :, part],
            None if self.keys is None else self.keys[:, :, part],
        )


def columns_first(state: MemoryState) -> dict[str, Any]:
    """The parts of a state that have columns, with the first two dimensions exchanged."""
    episodic = state.episodic
    return {
        "h": state.h.transpose(0, 1),
        "procedural": ProceduralState(*(x.transpose(0, 1) for x in state.procedural)),
        "episodic": episodic and EpisodicState(*(x.transpose(0, 1) for x in episodic)),
    }
