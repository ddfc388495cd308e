"""Initial weights: their statistics, with fans that count present connections only."""

from __future__ import annotations

import math

import pytest
import torch

from neuro.layers.soen.connectivity import AllToAll, ConstantFanIn
from neuro.layers.soen.initial import (
    INITIALS,
    Constant,
    FluxBalanced,
    Initial,
    Kaiming,
    Normal,
    Orthogonal,
    Uniform,
    Xavier,
)

ALL: dict[str, Initial] = {
    "normal": Normal(),
    "uniform": Uniform(),
    "xavier": Xavier(),
    "kaiming": Kaiming(),
    "orthogonal": Orthogonal(),
    "constant": Constant(0.1),
    "flux_balanced": FluxBalanced(),
}


def mask_of(fan_in=None, to=300, from_=200):
    structure = AllToAll() if fan_in is None else ConstantFanIn(fan_in)
    return structure.mask(to, from_, torch.Generator().manual_seed(9))


def drawn(initial, mask=None, seed=0):
    mask = mask_of() if mask is None else mask
    return initial.values(mask, torch.Generator().manual_seed(seed))


def test_every_kind_is_tested():
    assert {name: type(initial) for name, initial in ALL.items()} == INITIALS


@pytest.mark.parametrize("name", ALL)
def test_weights_are_determined_by_the_generator(name):
    values = drawn(ALL[name])
    torch.manual_seed(5)  # the global generator has no effect
    assert torch.equal(values, drawn(ALL[name]))
    assert torch.equal(values, drawn(ALL[name], seed=1)) == (name == "constant")


def test_normal():
    values = drawn(Normal(mean=0.3, std=0.2))
    assert float(values.mean()) == pytest.approx(0.3, abs=5 * 0.2 / math.sqrt(values.numel()))
    assert float(values.std()) == pytest.approx(0.2, rel=0.02)


def test_uniform():
    values = drawn(Uniform())
    assert -0.24 <= float(values.min()) < -0.239 and 0.239 < float(values.max()) <= 0.24
    assert float(values.std()) == pytest.approx(0.48 / math.sqrt(12), rel=0.02)
    shifted = drawn(Uniform(0.1, 0.2))
    assert float(shifted.min()) >= 0.1 and float(shifted.max()) <= 0.2
    with pytest.raises(ValueError, match=r"minimum \(0.3\) must be below maximum \(0.2\)"):
        Uniform(0.3, 0.2)


@pytest.mark.parametrize("gain", [1.0, 2.0])
@pytest.mark.parametrize("fan_in", [None, 10])
def test_xavier_counts_existing_connections(fan_in, gain):
    mask = mask_of(fan_in)
    values = drawn(Xavier(gain), mask)[mask > 0]
    # 300 nodes with inputs from 10 of 200: on average 15 targets for each source
    fans = 300 + 200 if fan_in is None else 10 + 15
    assert float(values.std()) == pytest.approx(gain * math.sqrt(2 / fans), rel=0.05)


@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
@pytest.mark.parametrize("fan_in", [None, 10])
def test_kaiming_keeps_the_variance_of_the_input(fan_in, gain):
    mask = mask_of(fan_in)
    weight = drawn(Kaiming(gain), mask) * mask
    assert float(weight[mask > 0].std()) == pytest.approx(gain / math.sqrt(fan_in or 200), rel=0.05)
    arriving = torch.randn(2000, 200, generator=torch.Generator().manual_seed(1)) @ weight.T
    assert float(arriving.std()) == pytest.approx(gain, rel=0.05)


def test_orthogonal():
    values = drawn(Orthogonal(gain=2.0))  # 300 rows, 200 columns
    torch.testing.assert_close(values.T @ values, 4 * torch.eye(200), atol=1e-4, rtol=0)


def test_constant():
    assert drawn(Constant(-0.3)).unique().tolist() == pytest.approx([-0.3])


@pytest.mark.parametrize("fan_in", [None, 10])
@pytest.mark.parametrize("total", [0.0, 0.5])
def test_flux_balanced_weights_have_the_given_sum(fan_in, total):
    mask = mask_of(fan_in)
    values = drawn(FluxBalanced(scale=0.1, sum=total), mask)
    torch.testing.assert_close(values.sum(1), torch.full((300,), total), atol=1e-5, rtol=0)
    assert torch.equal(values * mask, values)
    # uniform within +-scale, but for the shift of each row
    spread = values[mask > 0].std()
    assert float(spread) == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
