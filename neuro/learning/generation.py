"""Sampling of sequences from a model of tokens, one token at a time.

Each step costs the same, however long the sequence: the model's state holds all that it remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuro.learning.stepping import Stepper
from neuro.models.base import CoreModel


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from scores.

    - `temperature`: scores are divided by it; 0: always the most probable token
    - `top_k`: only the k most probable tokens; None: all
    - `top_p`: only the fewest, most probable tokens whose probabilities add up to p (nucleus
      sampling, Holtzman et al. 2020); None: all
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities `[V]` from scores `[V]`, of which some may be -inf."""
        scores = scores.double()
        if self.temperature == 0:
            return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
        ordered, order = torch.sort(scores / self.temperature, descending=True)
        if self.top_k is not None:
            ordered[self.top_k :] = -torch.inf
        found = ordered.softmax(-1)
        if self.top_p is not None:
            before = found.cumsum(-1) - found
            found = found.masked_fill(before >= self.top_p, 0.0)
            found = found / found.sum()
        return torch.zeros_like(found).scatter(-1, order, found)


class Writer:
    """A sequence that a model reads and continues; what it reads enters its memories.

    `model` is in evaluation mode; `generator` (on the CPU) draws the tokens.
    """

    def __init__(self, model: CoreModel, sampling: Sampling, generator: torch.Generator):
        self.model = model
        self.sampling = sampling
        self.generator = generator
        self.state: Any = model.initial_state(1)
        self._step = Stepper(model)
        self._scores: Tensor | None = None

    @torch.inference_mode()
    def read(self, tokens: Sequence[int]) -> None:
        """Read at least one token."""
        inputs = torch.as_tensor([[*tokens]], device=self.model.device)
        if len(tokens) == 1:
            values, self.state = self._step(inputs, self.state)
        else:
            values, self.state, _ = self.model(inputs, self.state, dt_ms=None)
        self._scores = values[0, -1].float().cpu()

    def write(self) -> int:
        """Draw the next token, and read it. A token must have been read before."""
        assert self._scores is not None, "nothing was read yet"
        chances = self.sampling.probabilities(self._scores)
        token = int(torch.multinomial(chances, 1, generator=self.generator))
        self.read([token])
        return token
