"""Untrained procedural and episodic memory: recall of written contents by their contexts."""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.layers.memory.columns import unit
from neuro.layers.memory.documents import Documents
from neuro.layers.memory.episodic import Episodic, EpisodicMemory, EpisodicState
from neuro.layers.memory.procedural import Procedural, ProceduralMemory, ProceduralState

WIDTH = 16
NO_START = torch.zeros(1, 4, dtype=torch.bool)
SAME = Documents.of(NO_START)


def rows(seed: int) -> Tensor:
    """Four nearly orthogonal inputs `[1, 1, 4, WIDTH]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][None, None, :4]


def procedural() -> tuple[ProceduralMemory, ProceduralState]:
    torch.manual_seed(0)
    memory = ProceduralMemory(1, WIDTH, Procedural(slots=8))
    return memory, ProceduralState(*(x.transpose(0, 1) for x in memory.initial_state(1)))


def write(
    memory: ProceduralMemory, state: ProceduralState, x: Tensor, o: Tensor
) -> ProceduralState:
    state = memory.observe(x, o, torch.full((1, 4), 5.0), state, SAME)
    return memory.commit(state, torch.ones(1), torch.zeros(1, 1, WIDTH))[0]


def found(state: ProceduralState, x: Tensor) -> Tensor:
    """s of each row of x, without the MLP, `[4, WIDTH]`."""
    return ((unit(x) @ state.keys.mT) * state.strengths[:, :, None] @ state.values)[0, 0]


@torch.no_grad()
def test_procedural_memory_recalls_what_followed_an_input() -> None:
    memory, state = procedural()
    x, o = rows(1), rows(2)
    state = write(memory, state, x, o)
    cosines = unit(found(state, x)) @ unit(memory.value(o))[0, 0].T
    # the input at token t recalls the output at t + 1; the last one has no successor
    assert cosines[:3].argmax(1).tolist() == [1, 2, 3]


@torch.no_grad()
def test_a_later_span_replaces_weak_contents_of_procedural_memory() -> None:
    """A slot's first commit has little eligibility, for example before its pair is read."""
    memory, state = procedural()
    faint = memory.observe(rows(1), rows(3), torch.full((1, 4), 1e-3), state, SAME)
    state = memory.commit(faint, torch.ones(1), torch.zeros(1, 1, WIDTH))[0]
    old = unit(found(state, rows(1)))
    state = write(memory, state, rows(1), rows(2))
    new = unit(found(state, rows(1)))
    values = unit(memory.value(rows(2)))[0, 0].T
    assert (old @ values).argmax(1).tolist()[:3] != [1, 2, 3]
    assert (new @ values).argmax(1).tolist()[:3] == [1, 2, 3]


def episodic() -> tuple[EpisodicMemory, EpisodicState]:
    torch.manual_seed(0)
    memory = EpisodicMemory(1, WIDTH, WIDTH, Episodic(slots=8, dim=WIDTH, read=1, write=3))
    return memory, EpisodicState(*(x.transpose(0, 1) for x in memory.initial_state(1)))


@torch.no_grad()
def test_episodic_memory_recalls_what_followed_a_context() -> None:
    memory, state = episodic()
    queries, keys = memory.addresses(rows(1)[0])
    torch.testing.assert_close(queries, keys)
    o = rows(2)
    surprise = torch.tensor([[0.0, 3.0, 3.0, 3.0]])
    first = torch.tensor([[True, False, False, False]])
    state, novelty = memory.observe(keys, o, surprise, torch.ones(1, 4), state, SAME, first)
    assert (novelty[0, 0] > 0).tolist() == [False, True, True, True]
    state = memory.commit(state, torch.ones(1))
    best = (queries @ state.keys.mT)[0, 0, :3].max(-1)
    assert (best.values > 0.9).all()
    cosines = unit(state.values[0, 0, best.indices]) @ unit(memory.value(o))[0, 0].T
    assert cosines.argmax(1).tolist() == [1, 2, 3]


@torch.no_grad()
def test_a_candidate_for_an_empty_slot_hardly_changes_stored_ones() -> None:
    memory, state = episodic()
    arguments = (torch.full((1, 4), 3.0), torch.ones(1, 4))
    _, keys = memory.addresses(rows(1)[0])
    state = memory.observe(keys, rows(2), *arguments, state, SAME, NO_START)[0]
    state = memory.commit(state, torch.ones(1))
    stored = state.strengths > 0
    _, keys = memory.addresses(rows(3)[0])
    later = memory.observe(keys, rows(4), *arguments, state, SAME, NO_START)[0]
    later = memory.commit(later, torch.ones(1))
    changed = torch.cosine_similarity(later.values[stored], state.values[stored], dim=-1)
    assert stored.sum() == 3 and (later.strengths > 0).sum() == 6
    assert changed.min() > 0.8
