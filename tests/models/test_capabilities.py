"""Capabilities: which model has which, and the message for a missing one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuro.models import capabilities
from neuro.models.capabilities import Connected, Deployable, Spiking, connection_weights, unmet
from neuro.models.pixels import Pixels
from tests.fakes import FakeData, linear
from tests.networks import network
from tests.soen import soen

SPIKING = {"Layered", "Spiking", "Deployable", "Plastic"}
HAVE = {
    "ltgate": SPIKING | {"Observable"},
    "lif": SPIKING | {"Observable"},
    "hlop": SPIKING | {"Observable"},
    "dsdsnn": SPIKING | {"Observable"},
    "pixels": {"Plastic"},
    "soen": {"Layered", "Connected", "Noisy", "Constrained", "Observable", "Portable"},
    "linear": set(),
}
ALL = set.union(*HAVE.values())


def made(kind):
    match kind:
        case "pixels":
            return Pixels(FakeData().spec("fast"))
        case "soen":
            return soen()
        case "linear":
            return linear()
        case _:
            return network(kind)


@pytest.mark.parametrize("kind", HAVE)
def test_a_model_has_the_capabilities_of_its_family(kind):
    model = made(kind)
    assert {name for name in ALL if isinstance(model, getattr(capabilities, name))} == HAVE[kind]


def test_capabilities_depend_on_members_only():
    class Own(nn.Module):
        @property
        def thresholds(self):
            return {"layer": torch.ones(())}

    assert isinstance(Own(), Spiking)
    assert list(unmet(Own(), (Spiking, Deployable), "X")) == [
        "X needs a Deployable model, which Own is not."
    ]


def test_activity_has_a_record_and_a_limit_for_each_layer():
    for kind in ("lif", "soen"):
        model = made(kind)
        assert set(model.activity_records().values()) <= set(model.recordable)
        assert set(model.activity_limits()) <= {*model.activity_records(), "layer0"}


def test_weights_are_those_of_the_connections_or_of_matrices_called_weights():
    model = soen()
    assert isinstance(model, Connected)
    assert set(connection_weights(model)) == set(model.connection_weights())
    layers = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    assert set(connection_weights(layers)) == {"0.weight"}
