"""Limits of a chip, and checks of the weights that its synapses store."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from neuro.errors import ConfigError, ExportError
from neuro.hardware.loihi2.integer import IntegerSynapse
from neuro.hardware.loihi2.limits import ChipLimits, check_weights
from neuro.hardware.loihi2.mapper import map_network
from tests.hardware.loihi2.test_mapper import dense, dual, lif, network


def test_every_limit_has_a_source_and_a_grade():
    provenance = ChipLimits().provenance()
    assert provenance.keys() == {f.name for f in fields(ChipLimits)}
    assert all(entry["source"] and entry["grade"] for entry in provenance.values())
    assert provenance["neurons_per_core"]["value"] == 8192


def test_limits_must_be_positive():
    with pytest.raises(ConfigError, match="chips must be at least 1; got 0"):
        ChipLimits(chips=0)


def row(*weights: int) -> IntegerSynapse:
    return IntegerSynapse("input", np.array([weights], np.int32))


@pytest.mark.parametrize(
    "weights, message",
    [
        (
            (256, 256),
            "layer 'hidden': weights from 'input' span 256 to 256; 8 bits hold -255 to 255",
        ),
        ((-256, -256), "span -256 to -256"),
        ((2, -258, 0, 0), "span -258 to 2; 8 bits hold -256 to 255"),
        ((2, -3, 0, 0), "both signs and are odd"),
    ],
)
def test_weights_that_a_synapse_cannot_store(weights, message):
    with pytest.raises(ExportError, match=message):
        check_weights("hidden", row(*weights), ChipLimits())
    with pytest.raises(ExportError, match=message):
        map_network(network(lif("hidden", (1,), row(*weights)), inputs=(len(weights),)))


@pytest.mark.parametrize("weights", [(255, 0, 1), (-255, 0, -1), (-256, 254, 0), (0, 0)])
def test_weights_at_their_limits_fit(weights):
    check_weights("hidden", row(*weights), ChipLimits())


def test_the_weights_of_the_readout_are_checked():
    net = network(
        lif("hidden", (2,), dense("input", 2, 4)), dual("last", (2,), dense("hidden", 2, 2))
    )
    net.readout.synapses[0].weight[:] = 300
    with pytest.raises(ExportError, match="layer 'readout': weights from 'last' span 300 to 300"):
        map_network(net)
