"""Attention from one sequence to another, over a window."""

from __future__ import annotations

import torch

from neuro.layers.attention import Reach, WindowAttention

STREAMS, STEPS, DIM, WINDOW = 2, 11, 8, 4


def reach(steps: int) -> Reach:
    starts = torch.zeros(STREAMS, steps, dtype=torch.bool)
    return Reach.of(starts, torch.zeros(STREAMS, dtype=torch.int64), WINDOW)


def test_equal_source_and_target_give_self_attention() -> None:
    attention, x = WindowAttention(DIM, DIM, 2, WINDOW), torch.randn(STREAMS, STEPS, DIM)
    state = attention.initial_state(STREAMS)
    own, _ = attention(x, state, reach(STEPS))
    other, _ = attention(x, state, reach(STEPS), x)
    torch.testing.assert_close(own, other)


def test_keys_and_values_come_from_the_source() -> None:
    attention, x = WindowAttention(DIM, DIM, 2, WINDOW), torch.randn(STREAMS, STEPS, DIM)
    state, source = attention.initial_state(STREAMS), torch.randn(STREAMS, STEPS, DIM)
    before, _ = attention(x, state, reach(STEPS), source)
    changed = source.clone()
    changed[:, 3] += 1
    after, _ = attention(x, state, reach(STEPS), changed)
    differs = (before != after).any(-1).any(0)
    assert differs.tolist() == [3 <= t < 3 + WINDOW for t in range(STEPS)]
    assert not attention(x, state, reach(STEPS), 0 * source)[0].any()
