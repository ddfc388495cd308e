"""Ranges of latency and energy against calculations by hand; sources and grades of constants."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from neuro.hardware.loihi2.counts import READOUT, LayerCounts
from neuro.hardware.loihi2.energy import CONSTANTS, Events, estimate
from neuro.hardware.loihi2.limits import ChipLimits
from neuro.hardware.loihi2.mapper import map_network
from tests.hardware.loihi2.test_mapper import conv, default_network, dense, dual, lif, network

HIDDEN = LayerCounts("hidden", 6, 10, 30, 0, 200, 40, 5, 10)
HEADS = LayerCounts(READOUT, 10, 0, 0, 30, 150, 20, 3, 10)


@pytest.fixture
def small():
    """Five neurons and three accumulators on two cores of one tile."""
    return map_network(network(lif("hidden", (5,), dense("input", 5, 4))))


def test_one_inference_by_hand(small):
    found = estimate(small, [HIDDEN, HEADS])
    assert found.layers == {
        "hidden": Events(30, 40, 10, 10, 6, 0, 0),
        "readout": Events(30, 20, 10, 0, 10, 0, 0),
    }
    assert found.events == Events(60, 60, 20, 10, 16, 0, 0)
    davies_pj = 60 * 23.6 + 60 * 81 + 20 * 52 + 16 * 1.7
    sana_fe_pj = 60 * 35.5 + 80 * 51.2 + 60 * 21.6 + 10 * 69.3 + 16 * 1.7
    pilotnet_uj = (0.679 - 0.232) * 152.9 * 80 / 158_509
    assert found.dynamic_energy_uj == pytest.approx(
        {
            "loihi1_davies_2018": davies_pj * 1e-6,
            "loihi1_sana_fe": sana_fe_pj * 1e-6,
            "loihi2_pilotnet_scaled": pilotnet_uj,
        }
    )
    assert found.latency_steps == 10 + 2
    assert found.step_time_us == pytest.approx(
        {
            "loihi1_sana_fe_synapses": 3 * 3.8e-3,
            "loihi2_pilotnet_scaled": 152.9 * 5 / 3168,
            "loihi2_pilotnet": 152.9,
        }
    )
    assert found.latency_us == pytest.approx((12 * 3 * 3.8e-3, 12 * 152.9))
    assert found.static_power_w == pytest.approx((0.232 * 2 / 74, 0.232))
    static_low, static_high = 0.232 * 2 / 74 * 12 * 3 * 3.8e-3, 0.232 * 12 * 152.9
    assert found.static_energy_uj == pytest.approx((static_low, static_high))
    lowest, highest = davies_pj * 1e-6, pilotnet_uj
    assert found.energy_uj == pytest.approx((lowest + static_low, highest + static_high))


def test_synapses_of_a_convolution():
    core_map = map_network(
        network(lif("conv", (2, 2, 2), conv("input", 2, 1)), inputs=(1, 4, 4), classes=1)
    )
    counts = LayerCounts("conv", 0, 0, 0, 100, 400, 0, 8, 1), replace(HEADS, synaptic_acs=0)
    found = estimate(core_map, counts)
    assert found.step_time_us["loihi1_sana_fe_synapses"] == pytest.approx(0.31)
    without = estimate(core_map, [replace(counts[0], synaptic_acs=0), counts[1]])
    extra = {
        m: found.dynamic_energy_uj[m] - without.dynamic_energy_uj[m]
        for m in ("loihi1_davies_2018", "loihi1_sana_fe", "loihi2_pilotnet_scaled")
    }
    assert list(extra.values()) == pytest.approx([2360e-6, 2400e-6, 0])


def test_both_compartments_of_a_dual_neuron_are_updated():
    core_map = map_network(network(dual("hidden", (5,), dense("input", 5, 4))))
    events = estimate(core_map, [HIDDEN, HEADS]).layers["hidden"]
    assert (events.updates_active, events.updates_inactive) == (40, 60)


def test_spikes_are_routed_over_the_mesh():
    """40 cores in ten tiles: rows of eight and two; the readout in the eleventh tile."""
    net = network(lif("hidden", (40,), dense("input", 40, 4)), classes=1)
    core_map = map_network(net, ChipLimits(neurons_per_core=1))
    hidden = replace(HIDDEN, inputs=1, spikes=40, neurons=40)
    found = estimate(core_map, [hidden, replace(HEADS, inputs=40, neurons=1)])
    to_hidden, to_readout = found.layers["hidden"], found.layers["readout"]
    assert to_hidden.messages == 40  # one frame value to every core
    assert to_hidden.hops_east_west == 4 * sum(range(8)) + 4 * (0 + 1)
    assert to_hidden.hops_north_south == 8
    assert to_readout.messages == 40
    assert to_readout.hops_east_west == pytest.approx(4 * (2 + 1 + 0 + 1 + 2 + 3 + 4 + 5) + 4 * 3)
    assert to_readout.hops_north_south == pytest.approx(32)


def test_a_readout_split_by_inputs_gets_each_spike_once():
    net = network(lif("hidden", (6,), dense("input", 6, 4)))
    core_map = map_network(net, ChipLimits(synapse_words_per_core=4, synapse_index_bits=1))
    heads = core_map.layers[-1].cores
    assert [core.axons[0].stop - core.axons[0].first for core in heads] == [3, 3]
    found = estimate(core_map, [replace(HIDDEN, neurons=6), HEADS])
    assert found.layers["readout"].messages == pytest.approx(10)
    assert found.layers["hidden"].messages == 6 * len(core_map.layers[0].cores)


def test_spikes_of_a_recurrent_layer_are_sent_to_all_its_cores():
    """6 spikes of the input and 10 of the layer, to each of its two cores."""
    layer = lif("hidden", (5,), dense("input", 5, 4), recurrent=dense("hidden", 5, 5))
    core_map = map_network(network(layer), ChipLimits(neurons_per_core=3))
    cores = [core for core in core_map.cores if core.layer == "hidden"]
    assert len(cores) == 2
    found = estimate(core_map, [HIDDEN, HEADS])
    assert found.layers["hidden"].messages == pytest.approx(2 * (6 + 10))
    assert found.latency_steps == 10 + 2  # recurrence adds no latency


def test_the_busiest_core_determines_the_step_time():
    net = network(lif("hidden", (6,), dense("input", 6, 4)))
    counts = [replace(HIDDEN, synaptic_macs=600), HEADS]
    one = estimate(map_network(net), counts)
    two = estimate(map_network(net, ChipLimits(neurons_per_core=3)), counts)
    name = "loihi1_sana_fe_synapses"
    assert two.step_time_us[name] == pytest.approx(one.step_time_us[name] / 2)


@pytest.mark.parametrize(
    "field", ["inputs", "spikes", "synaptic_macs", "synaptic_acs", "neuron_updates", "steps"]
)
def test_energy_is_monotonic_in_the_number_of_events(small, field):
    more = replace(HIDDEN, **{field: getattr(HIDDEN, field) * 1.2 + 1})
    less, found = (estimate(small, [counts, HEADS]) for counts in (HIDDEN, more))
    for model, energy in less.dynamic_energy_uj.items():
        assert found.dynamic_energy_uj[model] >= energy
    assert found.energy_uj.high >= less.energy_uj.high
    davies = "loihi1_davies_2018"
    assert found.dynamic_energy_uj[davies] > less.dynamic_energy_uj[davies]
    assert found.latency_us.high >= less.latency_us.high


def test_pilotnet_agrees_with_its_measurement():
    """Power and time of 16 steps give the energy stated by Intel, 1.661 mJ."""
    power, step_us = CONSTANTS["pilotnet_power"], CONSTANTS["pilotnet_step_time"]
    assert power.value * step_us.value * 16 * 1e-3 == pytest.approx(1.661, abs=5e-4)


def test_every_constant_has_a_source_and_a_grade():
    for name, constant in CONSTANTS.items():
        assert constant.source and constant.grade and constant.unit, name


def test_an_estimate_is_plain_json_with_its_caveats(small):
    values = estimate(small, [HIDDEN, HEADS]).as_json()
    assert json.loads(json.dumps(values)) == values
    assert values["grade"] == "estimate"
    assert any("no table of energies per operation of Loihi 2" in note for note in values["notes"])
    assert values["constants"]["davies_synaptic_operation"] == {
        "value": 23.6,
        "unit": "pJ",
        "source": "Davies et al. 2018, Loihi, Table 2",
        "grade": "Loihi 1, pre-silicon at 0.75 V; minimum",
    }


def test_ranges_of_the_default_network_are_ordered():
    core_map = map_network(default_network())
    counts = [
        LayerCounts(m.name, 100, 100, 0, 5000, 10**5, m.compartments * 10, m.neurons, 20)
        for m in core_map.layers
    ]
    found = estimate(core_map, counts)
    for low, high in (found.latency_us, found.static_power_w, found.static_energy_uj):
        assert 0 < low < high
    assert found.energy_uj.low < found.energy_uj.high
    assert found.latency_steps == 25
