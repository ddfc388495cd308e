"""What memory_lm writes: surprise, observation of the tokens of a span, and commits at its end.

States have columns first, as within the model's forward pass. A memory that is None is not written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.layers.memory.documents import Documents
from neuro.layers.memory.episodic import EpisodicMemory
from neuro.layers.memory.procedural import ProceduralMemory
from neuro.models.language.memory_state import MemoryState


@torch.no_grad()
def surprise_of(inputs: Tensor, scores: Tensor, state: MemoryState, starts: Tensor) -> Tensor:
    """-log p of the tokens `[B, P]`, by the scores of the tokens before them; 0 at `starts`."""
    first = F.cross_entropy(state.scores, inputs[:, 0], reduction="none")[:, None]
    if inputs.shape[1] == 1:
        return first.masked_fill(starts, 0)
    others = F.cross_entropy(
        scores[:, :-1].flatten(0, 1).float(), inputs[:, 1:].flatten(), reduction="none"
    ).view(len(inputs), -1)
    return torch.cat((first, others), 1).masked_fill(starts, 0)


def observe(
    keys: Tensor | None,
    seen: list[Tensor],
    surprise: Tensor,
    sigma: Tensor,
    state: MemoryState,
    documents: Documents,
    stored: Documents,
    procedural: ProceduralMemory | None,
    episodic: EpisodicMemory | None,
) -> tuple[MemoryState, Tensor | None]:
    """The state with eligibilities, candidates and sums of surprise after these tokens.

    - `keys`: episodic keys of the tokens, `[C, B, P, dim]`
    - `seen`: the input of the first layer and the outputs of all, `[C, B, P, D_h]` each
    - `documents`, `stored`: the documents of the tokens, and as the memories see them

    Also returns the novelty of the tokens as candidates, `[C, B, P]`.
    """
    slots, memory, novelty = state.procedural, state.episodic, None
    if procedural is not None:
        inputs, outputs = torch.cat(seen[:-1]), torch.cat(seen[1:])
        slots = procedural.observe(inputs, outputs, surprise, slots, stored)
    if episodic is not None:
        assert keys is not None and memory is not None
        memory, novelty = episodic.observe(
            keys, seen[-1], surprise, sigma, memory, stored, documents.starts
        )
    old = ~documents.renewed
    counted = documents.last & ~documents.starts
    state = state._replace(
        procedural=slots,
        episodic=memory,
        sigma=state.sigma * old,
        surprise=state.surprise * old + (surprise * counted).sum(1),
        surprising=state.surprising * old + counted.sum(1),
    )
    return state, novelty


def commit(
    state: MemoryState, procedural: ProceduralMemory | None, episodic: EpisodicMemory | None
) -> tuple[MemoryState, Tensor | None]:
    """Write the memories at the end of a span; also returns sum(alpha) `[L C, B]`."""
    sigma = state.surprise / state.surprising.clamp_min(1)
    slots, memory, alpha = state.procedural, state.episodic, None
    if procedural is not None:
        slots, alpha = procedural.commit(slots, sigma, state.h)
    if episodic is not None:
        assert memory is not None
        memory = episodic.commit(memory, sigma)
    zeros = torch.zeros_like(sigma)
    state = state._replace(
        procedural=slots, episodic=memory, sigma=sigma, surprise=zeros, surprising=zeros
    )
    return state, alpha
