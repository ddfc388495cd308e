"""Losses on synaptic weights: values by hand, gradients, frozen weights, levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from neuro.errors import ConfigError
from neuro.learning.losses.weights import GravityQuantization, RegJ
from neuro.models.pixels import Pixels
from tests.fakes import FakeData, linear
from tests.learning.terms import loss_on
from tests.networks import network

SPEC = FakeData().spec("fast")
VALUES = torch.zeros(2, 4)
LEVELS = GravityQuantization


class Two(nn.Module):
    """Two matrices of given weights."""

    def __init__(self):
        super().__init__()
        a = torch.tensor([[0.1, -0.3, 0.24], [0.9, 0.0, -1.2]], dtype=torch.double)
        self.weight_a = nn.Parameter(a)
        self.weight_b = nn.Parameter(torch.tensor([[0.5]], dtype=torch.double))


def numbers(model):
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def loss(term, model):
    return loss_on(term, VALUES.double(), None, model)


@pytest.mark.parametrize(
    "options", [{}, {"threshold": 0.5}, {"scale": 3.0}, {"factor": 1.0}, {"threshold": 0.0}]
)
def test_large_weights_by_hand(options):
    values = {"threshold": 0.24, "scale": 1.0, "factor": 0.01, **options}
    w = np.abs(numbers(Two()))
    over = w[w > values["threshold"]] - values["threshold"]
    expected = values["factor"] * (np.exp(values["scale"] * over) - 1).sum()
    assert loss(RegJ(**options), Two()).item() == pytest.approx(expected)


LEVELS_BY_HAND = {
    "bits": ({"bits": 2}, [-0.24, -0.12, 0, 0.12, 0.24]),
    "levels": ({"bits": None, "levels": 3, "min_val": -1.0, "max_val": 0.5}, [-1, 0, 0.5]),
    "codebook": (
        {"bits": None, "codebook": (0.4, -0.2), "min_val": None, "max_val": None}, [-0.2, 0, 0.4],
    ),
    "square": ({"bits": 1, "distance": "square"}, [-0.24, 0, 0.24]),
    "factor": ({"bits": 1, "factor": 5.0}, [-0.24, 0, 0.24]),
}  # fmt: skip


@pytest.mark.parametrize("case", LEVELS_BY_HAND)
def test_distances_to_levels_by_hand(case):
    options, levels = LEVELS_BY_HAND[case]
    term = GravityQuantization(**options)
    torch.testing.assert_close(term.levels, torch.tensor(levels, dtype=torch.float))
    away = np.abs(numbers(Two())[:, None] - np.array(levels)).min(1)
    away = away**2 if options.get("distance") == "square" else away
    found = loss(term, Two()).item()
    assert found == pytest.approx(options.get("factor", 1.0) * away.mean(), rel=1e-6)


@pytest.mark.parametrize("term", [RegJ(), LEVELS(bits=2), LEVELS(bits=2, distance="square")])
def test_gradients_by_finite_differences(term):
    model = Two()
    with torch.no_grad():  # away from the kinks
        model.weight_a.copy_(torch.tensor([[0.11, -0.31, 0.23], [0.9, 0.02, -1.2]]))
    loss(term, model).backward()
    for parameter in model.parameters():
        found = parameter.grad.clone().flatten()
        for i in range(parameter.numel()):
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    ends.append(loss(term, model).item())
                    parameter.view(-1)[i] -= step
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(found[i]), abs=1e-6)


def test_a_weight_is_drawn_to_the_nearest_level():
    model = Two()
    for _ in range(200):
        model.zero_grad()
        loss(GravityQuantization(bits=1), model).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.05 * p.grad
    levels = np.array([-0.24, 0, 0.24])
    assert np.abs(numbers(model)[:, None] - levels).min(1).max() < 0.01


@pytest.mark.parametrize("term", [RegJ(threshold=0.0), GravityQuantization()])
def test_frozen_weights_have_no_penalty(term):
    model = Two()
    alone = Two()
    alone.weight_a.requires_grad_(False)
    assert 0 < loss(term, alone).item() != loss(term, model).item()
    assert loss(term, alone.requires_grad_(False)).item() == 0


@pytest.mark.parametrize("term", [RegJ(threshold=0.0), GravityQuantization()])
@pytest.mark.parametrize("kind", ["ltgate", "lif", "hlop", "dsdsnn"])
def test_weight_losses_apply_to_any_network_with_weights(term, kind):
    model = network(kind)
    term.check(model, SPEC)
    loss_on(term, VALUES, None, model).backward()
    assert all(w.grad.abs().sum() > 0 for n, w in model.named_parameters() if "layers" in n)


def test_a_network_without_weights_is_refused():
    with pytest.raises(ConfigError, match="Pixels has none that are learnable"):
        RegJ().check(Pixels(SPEC), SPEC)
    RegJ().check(linear(), SPEC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 3}, "one of bits, levels and codebook"),
        ({"bits": None}, "one of bits, levels and codebook"),
        ({"bits": None, "codebook": (0.1,)}, "set min_val and max_val to null"),
        ({"min_val": None}, "need both min_val and max_val"),
        ({"min_val": 0.1}, "must have zero between them"),
    ],
)
def test_contradictory_keys(options, message):
    with pytest.raises(ValueError, match=message):
        GravityQuantization(**options)
