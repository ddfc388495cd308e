"""Gated recurrent units over vectors."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.models.gru import GRU
from neuro.models.state import misshapen_state

SPEC = TaskSpec("t", InputSpec((5,)), TargetSpec("class", classes=3), ((12, None),), (0, 1, 2))


def test_parts_equal_the_whole() -> None:
    model, x = GRU(SPEC, units=7, layers=2), torch.rand(3, 12, 5)
    whole = model(x, dt_ms=None)
    first = model(x[:, :5], dt_ms=None)
    second = model(x[:, 5:], first.state, dt_ms=None)
    torch.testing.assert_close(torch.cat([first.values, second.values], 1), whole.values)
    torch.testing.assert_close(second.state, whole.state)
    assert not list(misshapen_state(model))
    with pytest.raises(ConfigError, match="GRU records no 'h'"):
        model(x, dt_ms=None, record=["h"])
