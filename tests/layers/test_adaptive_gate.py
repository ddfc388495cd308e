"""The adaptive gate: a mixture per head, and its settings."""

from __future__ import annotations

import pytest
import torch

from neuro.layers.adaptive_gate import AdaptiveGate


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_mixes_each_head_by_its_gate() -> None:
    gate, first, second = AdaptiveGate(12, 3), torch.randn(5, 2, 12), torch.randn(5, 2, 12)
    weight = gate.gate(first, second)
    assert weight.shape == (5, 2, 3) and weight.min() > 0 and weight.max() < 1
    mixed = gate(first, second)
    for head in range(3):
        part, g = slice(4 * head, 4 * head + 4), weight[..., head, None]
        expected = g * first[..., part] + (1 - g) * second[..., part]
        torch.testing.assert_close(mixed[..., part], expected)


def test_temperature_flattens_the_weights() -> None:
    first, second = torch.randn(50, 12), torch.randn(50, 12)
    spread = []
    for temperature in (0.1, 1.0, 10.0):
        torch.manual_seed(1)
        spread.append((AdaptiveGate(12, 3, temperature).gate(first, second) - 0.5).abs().mean())
    assert spread[0] > 2 * spread[1] > 4 * spread[2]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads: got 5; expected a divisor of the width 12"):
        AdaptiveGate(12, 5)
