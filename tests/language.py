"""Minimal language models, and streams of random tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.layers.memory.decoder import Decoder
from neuro.layers.memory.episodic import Episodic
from neuro.layers.memory.procedural import Procedural
from neuro.layers.memory.working import Working
from neuro.models.language.memory_lm import MemoryLM
from neuro.models.language.memory_state import Tier

VOCABULARY = 11
END = 0

SMALL: dict[str, Any] = {
    "dim": 16,
    "layers": 2,
    "columns": 2,
    "working": Working(window=6, dim=8, heads=2),
    "procedural": Procedural(slots=3),
    "episodic": Episodic(slots=12, dim=6, read=3, write=2),
    "decoder": Decoder(dim=8, heads=2, layers=1),
}
SPAN = 5


def token_spec(vocabulary: int = VOCABULARY, end: int | None = END, steps: int = 20) -> TaskSpec:
    """A task of predicting the next token of documents."""
    inputs = InputSpec((), "int", vocabulary, document_end=end)
    target = TargetSpec("token", classes=vocabulary)
    return TaskSpec("language", inputs, target, ((steps, None),), documents=True)


def memory_lm(
    seed: int = 0, strong: float = 1.0, end: int | None = END, **options: Any
) -> MemoryLM:
    """A small memory_lm whose matrices are `strong` times the initial ones.

    At their initial size so small a model hardly depends on its inputs. `options`: those of the
    model and of its tier.
    """
    torch.manual_seed(seed)
    own = ("span", "tied", "memory_gain")
    whole = {key: options.pop(key) for key in own if key in options}
    tier = Tier(**{**SMALL, **options})
    model = MemoryLM(token_spec(end=end), tier, **{"span": SPAN, **whole})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "neuromodulator" not in name:
                parameter.mul_(strong)
    return model


def tokens(streams: int = 3, steps: int = 20, seed: int = 0) -> Tensor:
    """Random tokens without an end of document, `[streams, steps]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (streams, steps), generator=generator)
