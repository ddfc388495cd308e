"""Liquid networks: elapsed times, split sequences, messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.layers.hybrid_block import ClosedForm, Liquid, TimeConstant
from neuro.models.liquid import LiquidNetwork
from tests.models.test_hybrid import hybrid

EVENTS = TaskSpec("t", InputSpec((2,), elapsed=1), TargetSpec("class", classes=3), ((8, None),))
KINDS: dict[str, Liquid] = {
    "cfc": ClosedForm(6, backbone_units=7),
    "pure": ClosedForm(6, mode="pure"),
    "mixed memory": ClosedForm(6, mixed_memory=True),
    "ltc": TimeConstant(6),
}


@pytest.mark.parametrize("kind", KINDS)
def test_elapsed_times_come_from_the_data(kind: str) -> None:
    """Elapsed times change the states, compared to times as a mere feature."""
    torch.manual_seed(0)
    model, x = LiquidNetwork(EVENTS, KINDS[kind]), torch.rand(3, 8, 2)
    whole = model(x, dt_ms=None)
    first = model(x[:, :5], dt_ms=None)
    second = model(x[:, 5:], first.state, dt_ms=None)
    torch.testing.assert_close(torch.cat([first.values, second.values], 1), whole.values)
    torch.testing.assert_close(second.state, whole.state)

    equal = LiquidNetwork(replace(EVENTS, inputs=InputSpec((2,))), KINDS[kind])
    equal.load_state_dict(model.state_dict())
    assert not torch.allclose(equal(x, dt_ms=None).values, whole.values)
    x[..., 1] = 1.0
    torch.testing.assert_close(equal(x, dt_ms=None).values, model(x, dt_ms=None).values)


@pytest.mark.parametrize("mode", ["liquid", "parallel", "bidirectional"])
def test_times_reach_the_liquid_network_of_a_hybrid(mode: Any) -> None:
    model = hybrid(mode, EVENTS).eval()
    equal = hybrid(mode, replace(EVENTS, inputs=InputSpec((2,)))).eval()
    x = torch.rand(3, 8, 2)
    assert not torch.allclose(equal(x, dt_ms=None).values, model(x, dt_ms=None).values)


def test_it_records_nothing() -> None:
    model = LiquidNetwork(EVENTS, KINDS["cfc"])
    with pytest.raises(ConfigError, match="LiquidNetwork records no 'h'"):
        model(torch.rand(1, 2, 2), dt_ms=None, record=["h"])
