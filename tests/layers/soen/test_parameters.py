"""Parameters per node, and units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from neuro.layers.soen.base import NodeParameter
from neuro.layers.soen.units import GAMMA_PLUS, OMEGA_C, beta_of, seconds_of


def parameter(value, dim=3, **options):
    return NodeParameter("gamma", value, dim, **{"learnable": True, **options})


def test_one_value_applies_to_every_node():
    assert torch.equal(parameter(0.2)(), torch.full((3,), 0.2))


def test_a_value_for_each_node():
    assert torch.equal(parameter((0.1, 0.2, 0.3))(), torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="gamma: got 2 values for 3 nodes; give one for each"):
        parameter((0.1, 0.2))


def test_learnable_or_not():
    assert isinstance(parameter(0.1).raw, nn.Parameter)
    fixed = parameter(0.1, learnable=False)
    assert not list(fixed.parameters()) and "raw" in fixed.state_dict()


def test_a_positive_parameter_stays_positive_in_training():
    made = parameter((1e-3, 0.5, 20.0), positive=True)
    torch.testing.assert_close(made(), torch.tensor([1e-3, 0.5, 20.0]))
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    for _ in range(10):
        optimizer.zero_grad()
        made().sum().backward()
        optimizer.step()
    assert (made() > 0).all() and (made() < torch.tensor([1e-3, 0.5, 20.0])).all()


@pytest.mark.parametrize("value", [0.0, -1.0, (1.0, 0.0, 1.0)])
def test_a_positive_parameter_needs_a_positive_value(value):
    with pytest.raises(ValueError, match="gamma: got .*; must be positive"):
        parameter(value, positive=True)


def test_units_are_those_of_the_specification():
    assert pytest.approx(3.70433e11, rel=1e-5) == OMEGA_C
    assert beta_of(1e-9) == pytest.approx(303.853, rel=1e-5)
    assert pytest.approx(0.006582, rel=1e-4) == GAMMA_PLUS
    assert seconds_of(37.0) == pytest.approx(0.1e-9, rel=1e-2)
    assert math.isclose(GAMMA_PLUS, 1 / beta_of(0.5e-9))
