"""Working memory: attention from each token's embedding over the last W embeddings.

    y_t = W_o sum_s softmax_s(W_q e_t . W_k e_s / sqrt(d)) W_v e_s,   s in (t - W, t]

It is shared by all columns. The equations leave the order of the tokens open; scores depend on the
distance t - s by rotary angles unless `rotary` is off, because without them the memory is a bag of
tokens. It does not depend on the other memories, so it is computed for all tokens of an update at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from neuro.config.types import STRICT
from neuro.layers.attention import Window, WindowAttention
from neuro.layers.initial import initialise


@dataclass(frozen=True)
class Working:
    """Settings of the working memory: tokens of the window, width, heads and rotary angles."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    window: Window
    dim: Annotated[int, Ge(1)]
    heads: Annotated[int, Ge(1)]
    rotary: bool = True

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.rotary and self.dim // self.heads % 2):
            even = " into parts of even width (rotary)" if self.rotary else ""
            raise ValueError(
                f"heads: got {self.heads}; expected a divisor of dim ({self.dim}){even}"
            )


class WorkingMemory(WindowAttention):
    """The working memory over embeddings of width `inputs`."""

    def __init__(self, inputs: int, settings: Working):
        super().__init__(
            inputs, settings.dim, settings.heads, settings.window, rotary=settings.rotary
        )
        initialise(self.project.weight, inputs)
        initialise(self.out.weight, settings.dim)
