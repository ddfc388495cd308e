"""Mapping onto cores: small cases by hand, capacities at their limits, and Intel's PilotNet."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from neuro.errors import ExportError
from neuro.hardware.loihi2.core_map import Axons
from neuro.hardware.loihi2.integer import (
    IntegerDualLIF,
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.hardware.loihi2.limits import ChipLimits
from neuro.hardware.loihi2.mapper import map_network


def dense(source: str, outputs: int, inputs: int, value: int = 2, graded=False) -> IntegerSynapse:
    return IntegerSynapse(source, np.full((outputs, inputs), value, np.int32), graded=graded)


def conv(source, outputs, inputs, stride=(1, 1), padding=(0, 0), graded=False) -> IntegerSynapse:
    weight = np.full((outputs, inputs, 3, 3), 2, np.int32)
    return IntegerSynapse(source, weight, stride, padding, graded)


def lif(name: str, shape: tuple[int, ...], synapse: IntegerSynapse, **changes) -> IntegerLIF:
    return replace(IntegerLIF(name, shape, synapse, dv=400, vth=500, reset="zero"), **changes)


def dual(name: str, shape: tuple[int, ...], synapse: IntegerSynapse, **changes) -> IntegerDualLIF:
    gamma = np.full(shape[0], 128, np.int32)
    layer = IntegerDualLIF(name, shape, synapse, synapse, 800, 40, 500, gamma, "gate", "subtract")
    return replace(layer, **changes)


def network(
    *layers: IntegerLayer, inputs=(4,), classes=3, readout=None, input_bits=8
) -> IntegerNetwork:
    """A chain of layers; the readout follows the last one, or those named in `readout`."""
    sizes = {layer.name: int(np.prod(layer.shape)) for layer in layers}
    synapses = tuple(dense(name, classes, sizes[name]) for name in readout or [layers[-1].name])
    heads = IntegerReadout(synapses, (1.0,) * len(synapses), np.zeros(classes))
    return IntegerNetwork(inputs, input_bits, 127, 1.0, layers, heads)


def default_network(size: int = 8, channels=(32, 32, 64), units: int = 256) -> IntegerNetwork:
    """The backbone of the default run: dual-timescale, a readout of all layers."""
    layers, source, inputs = [], "input", 1
    for i, (outputs, stride) in enumerate(zip(channels, (1, 2, 2), strict=True), 1):
        size = (size - 1) // stride + 1
        synapse = conv(source, outputs, inputs, (stride, stride), (1, 1), graded=i == 1)
        layers.append(dual(f"conv{i}", (outputs, size, size), synapse))
        source, inputs = f"conv{i}", outputs
    layers.append(dual("dense", (units,), dense("conv3", units, inputs * size * size)))
    frame = layers[0].shape[1:]
    return network(*layers, inputs=(1, *frame), classes=10, readout=[m.name for m in layers])


def pilotnet() -> IntegerNetwork:
    """The LIF layers of Intel's PilotNet after its input layer; the last neuron is the readout."""
    two = (2, 2)
    return network(
        lif("conv1", (24, 32, 99), conv("input", 24, 3, two)),
        lif("conv2", (36, 15, 49), conv("conv1", 36, 24, two)),
        lif("conv3", (48, 7, 24), conv("conv2", 48, 36, two)),
        lif("conv4", (64, 4, 22), conv("conv3", 64, 48, (2, 1), (1, 0))),
        lif("conv5", (64, 2, 20), conv("conv4", 64, 64)),
        lif("dense1", (100,), dense("conv5", 100, 2560)),
        lif("dense2", (50,), dense("dense1", 50, 100)),
        lif("dense3", (10,), dense("dense2", 10, 50)),
        inputs=(3, 66, 200),
        classes=1,
    )


def cores_of(core_map, name):
    return next(layer.cores for layer in core_map.layers if layer.name == name)


def test_a_dense_core_by_hand():
    # 5 neurons x (8 + 8) bits = 80 bits: 2 words for each of 4 inputs
    layer = lif("hidden", (5,), dense("input", 5, 4), bias_mantissa=np.ones(5, np.int32))
    core_map = map_network(network(layer))
    (core,) = cores_of(core_map, "hidden")
    assert (core.first, core.stop, core.neurons, core.compartments) == (0, 5, 5, 5)
    assert (core.synapses, core.synapse_words) == (20, 8)
    assert core.memory_bytes == 8 * 8 + 5 * (2 * 3) + 5 * 2  # words, current and membrane, biases
    assert core.axons == (Axons("input", 0, 4),)
    assert core.neuron_utilisation == 5 / 8192
    assert core.synapse_utilisation == 8 / 12_000
    assert core.memory_utilisation == 104 / 196_608
    (readout,) = cores_of(core_map, "readout")
    assert (readout.neurons, readout.synapses, readout.synapse_words) == (3, 15, 5)
    assert readout.memory_bytes == 5 * 8 + 3 * 3  # accumulators have only one state
    assert (len(core_map.cores), core_map.chips, core_map.pipeline_steps) == (2, 1, 2)


def test_a_dual_neuron_takes_two_compartments_and_two_sets_of_synapses():
    single = map_network(network(lif("hidden", (5,), dense("input", 5, 4))))
    double = map_network(network(dual("hidden", (5,), dense("input", 5, 4))))
    (one,), (two,) = cores_of(single, "hidden"), cores_of(double, "hidden")
    assert (two.neurons, two.compartments) == (5, 10)
    assert (two.synapses, two.synapse_words) == (2 * one.synapses, 2 * one.synapse_words)
    assert two.memory_bytes == 2 * one.memory_bytes + 5 * 2  # one more for gamma
    assert two.axons == one.axons  # one spike goes to both compartments


def test_a_convolution_stores_its_kernel_once():
    # 2 input channels x 9 places, 12 channels x 8 bits = 96 bits: 2 words each
    core_maps = [
        map_network(
            network(lif("conv", (12, n, n), conv("input", 12, 2)), inputs=(2, n + 2, n + 2))
        )
        for n in (4, 9)
    ]
    for core_map in core_maps:
        (core,) = cores_of(core_map, "conv")
        assert (core.synapses, core.synapse_words) == (2 * 9 * 12, 2 * 9 * 2)


def test_a_core_stores_the_kernels_of_its_channels():
    layer = lif("conv", (12, 4, 4), conv("input", 12, 2))
    core_map = map_network(network(layer, inputs=(2, 6, 6)), ChipLimits(neurons_per_core=96))
    assert [(c.first, c.stop, c.synapses) for c in cores_of(core_map, "conv")] == [
        (0, 96, 2 * 9 * 6),
        (96, 192, 2 * 9 * 6),
    ]


@pytest.mark.parametrize(
    "limits, cores",
    [
        ({"neurons_per_core": 6}, 1),
        ({"neurons_per_core": 5}, 2),
        ({"synapse_words_per_core": 8}, 1),  # 4 inputs x 96 bits
        ({"synapse_words_per_core": 7}, 2),
        ({"core_memory_bytes": 8 * 8 + 6 * 6}, 1),
        ({"core_memory_bytes": 8 * 8 + 6 * 6 - 1}, 2),
    ],
)
def test_a_layer_at_the_limit_takes_one_core(limits, cores):
    net = network(lif("hidden", (6,), dense("input", 6, 4)), classes=1)
    found = cores_of(map_network(net, ChipLimits(**limits)), "hidden")
    assert len(found) == cores
    assert [c.neurons for c in found] == [6 // cores] * cores


def test_ranges_divide_a_layer_evenly():
    net = network(lif("hidden", (10,), dense("input", 10, 4)))
    found = cores_of(map_network(net, ChipLimits(neurons_per_core=4)), "hidden")
    assert [(c.first, c.stop) for c in found] == [(0, 3), (3, 6), (6, 10)]
    assert [c.index for c in found] == [0, 1, 2]


def test_ranges_are_uneven_if_even_ones_exceed_a_limit():
    # 5 channels of 4 neurons, two kernels per core; a third of 20 neurons spans 3 channels
    layer = lif("conv", (5, 2, 2), conv("input", 5, 1))
    limits = ChipLimits(synapse_words_per_core=18, weight_bits=64)
    found = cores_of(map_network(network(layer, inputs=(1, 4, 4)), limits), "conv")
    assert [(c.first, c.stop) for c in found] == [(0, 8), (8, 16), (16, 20)]


def test_the_readout_is_split_by_its_inputs():
    layers = lif("a", (6,), dense("input", 6, 4)), lif("b", (4,), dense("a", 4, 6))
    core_map = map_network(
        network(*layers, readout=["a", "b"]), ChipLimits(synapse_words_per_core=12)
    )
    (only,) = cores_of(core_map, "readout")
    assert only.axons == (Axons("a", 0, 6), Axons("b", 0, 4)) and only.neurons == 2 * 3
    core_map = map_network(
        network(*layers, readout=["a", "b"]),
        ChipLimits(synapse_words_per_core=8, synapse_index_bits=1),
    )
    left, right = cores_of(core_map, "readout")
    assert left.axons == (Axons("a", 0, 5),) and right.axons == (Axons("a", 5, 6), Axons("b", 0, 4))
    assert (left.neurons, right.neurons) == (3, 6)
    assert core_map.layers[-1].neurons == 9


def test_cores_extend_to_further_chips():
    net = network(lif("hidden", (6,), dense("input", 6, 4)))
    core_map = map_network(net, ChipLimits(neurons_per_core=3, cores_per_chip=2, chips=2))
    assert [core.chip for core in core_map.cores] == [0, 0, 1]
    assert core_map.chips == 2


def test_more_cores_than_available():
    net = network(lif("hidden", (6,), dense("input", 6, 4)))
    with pytest.raises(
        ExportError,
        match=r"layer 'hidden': the network needs 3 cores \('hidden' 2, 'readout' 1\); chips=1 has "
        r"2\. Use chips=2 or make 'hidden' smaller",
    ):
        map_network(net, ChipLimits(neurons_per_core=3, cores_per_chip=2))


def test_a_neuron_with_too_many_inputs():
    net = network(lif("dense", (2,), dense("input", 2, 131_072)), inputs=(131_072,))
    with pytest.raises(
        ExportError,
        match="layer 'dense': the 131,072 synapses of one neuron need 131,072 synapse words, a "
        "core has 12,000. Use fewer inputs: larger strides or fewer channels before it",
    ):
        map_network(net)


def test_a_dual_neuron_allows_half_the_inputs():
    fits = network(dual("dense", (1,), dense("input", 1, 6000)), inputs=(6000,))
    assert cores_of(map_network(fits), "dense")[0].synapse_utilisation == 1
    with pytest.raises(ExportError, match="the 12,002 synapses of one neuron need 12,002 synapse"):
        map_network(network(dual("dense", (1,), dense("input", 1, 6001)), inputs=(6001,)))


def test_a_kernel_that_is_too_large():
    layer = lif("conv", (4, 2, 2), conv("input", 4, 1400))
    with pytest.raises(
        ExportError,
        match="layer 'conv': one neuron with its kernel 1400x3x3 needs 12,600 synapse words, a "
        "core has 12,000. Use fewer input channels or a smaller kernel",
    ):
        map_network(network(layer, inputs=(1400, 4, 4)))


def test_a_neuron_larger_than_a_core():
    net = network(dual("hidden", (2,), dense("input", 2, 4)))
    with pytest.raises(ExportError, match="need 2 compartments, a core has 1"):
        map_network(net, ChipLimits(neurons_per_core=1))


def test_too_many_classes():
    net = network(lif("hidden", (2,), dense("input", 2, 4)), classes=50)
    with pytest.raises(
        ExportError, match="'readout': one input of 50 classes needs 13 synapse wor"
    ):
        map_network(net, ChipLimits(synapse_words_per_core=12))


def test_frames_of_too_many_bits():
    net = network(lif("hidden", (2,), dense("input", 2, 4)), input_bits=25)
    with pytest.raises(ExportError, match="frames of 25 bits; graded spikes have at most 24"):
        map_network(net)


def test_the_largest_synaptic_sum():
    weight = np.array([[10, -20, 30, 0], [-2, -4, -6, -8]], np.int32)
    spikes = map_network(network(lif("hidden", (2,), IntegerSynapse("input", weight))))
    assert spikes.layers[0].largest_sum == 40
    assert spikes.warnings == ()
    graded = map_network(
        network(lif("hidden", (2,), IntegerSynapse("input", weight, graded=True)), input_bits=12)
    )
    # inputs are -2048 to 2047: the minimum of the first row is -(20 x 2047 + 40 x 2048)
    assert graded.layers[0].largest_sum == 20 * 2047 + 40 * 2048
    assert graded.warnings == (
        "layer 'hidden': a synaptic sum can reach 122,860, beyond the 16 bits (32,767) of a chip's "
        "accumulator; Lava does not enforce them.",
    )


def test_the_default_network():
    core_map = map_network(default_network())
    assert {layer.name: len(layer.cores) for layer in core_map.layers} == {
        "conv1": 1,
        "conv2": 1,
        "conv3": 1,
        "dense": 3,
        "readout": 1,
    }
    assert core_map.chips == 1 and core_map.pipeline_steps == 5
    assert sum(layer.compartments for layer in core_map.layers[:-1]) == 2 * 3072


def test_words_of_pilotnet_against_intels():
    """Words per layer; Intel compresses convolutions to less than 8 bits per weight."""
    unlimited = ChipLimits(
        neurons_per_core=10**6, core_memory_bytes=10**9, synapse_words_per_core=10**6
    )
    words = {m.name: m.cores[0].synapse_words for m in map_network(pilotnet(), unlimited).layers}
    intel = {
        "conv1": 81,
        "conv2": 864,
        "conv3": 1620,
        "conv4": 2160,
        "conv5": 2880,
        "dense2": 1300,
        "dense3": 150,
        "readout": 10,
    }
    error = {name: round(100 * (words[name] / intel[name] - 1)) for name in intel}
    assert error == {
        "conv1": 0,
        "conv2": 25,
        "conv3": 20,
        "conv4": 60,
        "conv5": 60,
        "dense2": 0,
        "dense3": 0,
        "readout": 0,
    }


@pytest.mark.parametrize("neurons, words", [(1, 1), (9, 3), (17, 5)])
def test_words_of_pilotnets_large_dense_layer(neurons, words):
    """Intel's log: 12,800 words for 17 neurons; 7,253 per core, for 11 x 9 and 1 neurons."""
    layer = lif("dense1", (neurons,), dense("input", neurons, 2560))
    limits = ChipLimits(synapse_words_per_core=12_800)
    (core,) = cores_of(map_network(network(layer, inputs=(2560,)), limits), "dense1")
    assert core.synapse_words == words * 2560


def test_pilotnets_cores_are_a_lower_bound():
    assert len(map_network(pilotnet()).cores) == 27  # Intel: 61 after the input layer
    largest_used = ChipLimits(neurons_per_core=3168)
    assert len(map_network(pilotnet(), largest_used).cores) == 49


def test_a_core_map_is_plain_json():
    values = map_network(default_network()).as_json()
    assert json.loads(json.dumps(values)) == values
    assert (values["cores"], values["chips"]) == (7, 1)
    core = values["layers"][3]["cores"][1]
    assert core["axons"] == [["conv3", 0, 256]] and core["neurons"] == core["stop"] - core["first"]
    assert values["limits"]["core_memory_bytes"]["grade"]


def test_mapping_does_not_mutate_the_network():
    net = default_network()
    before = net.layers[0].synapses[0].weight.copy()
    map_network(net)
    assert (net.layers[0].synapses[0].weight == before).all()


def test_a_recurrent_core_by_hand():
    """4 inputs and 8 neurons have lists of 8 weights: 8 x 16 bits are 2 words."""
    own = dense("hidden", 8, 8)
    registers = np.arange(8, dtype=np.int32)
    layer = lif("hidden", (8,), dense("input", 8, 4), recurrent=own, du=registers, dv=registers)
    (core, _) = map_network(network(layer)).cores
    assert core.synapses == 8 * (4 + 8)
    assert core.synapse_words == 2 * (4 + 8)
    assert core.memory_bytes == 8 * 24 + 8 * (6 + 2 + 2)  # words, two states, two decays
    assert core.axons == (Axons("input", 0, 4), Axons("hidden", 0, 8))
    assert map_network(network(layer)).pipeline_steps == 2


def test_all_cores_of_a_recurrent_layer_receive_its_spikes():
    layer = lif("hidden", (600,), dense("input", 600, 4), recurrent=dense("hidden", 600, 600))
    cores = [core for core in map_network(network(layer)).cores if core.layer == "hidden"]
    assert len(cores) > 1
    assert all(Axons("hidden", 0, 600) in core.axons for core in cores)


def test_recurrent_weights_are_part_of_the_largest_sum():
    own = IntegerSynapse("hidden", np.full((2, 2), 100, np.int32), exponent=3)
    layer = lif("hidden", (2,), dense("input", 2, 4), recurrent=own)
    assert map_network(network(layer)).layers[0].largest_sum == 4 * 2 + 2 * 100 * 8


def test_too_many_neurons_in_a_recurrent_layer():
    layer = lif("hidden", (9000,), dense("input", 9000, 4), recurrent=dense("hidden", 9000, 9000))
    message = "'hidden': the 9,004 synapses of one neuron .* Use fewer neurons, .* or no recurrence"
    with pytest.raises(ExportError, match=message):
        map_network(network(layer), ChipLimits(synapse_words_per_core=9000))


def test_delays_take_bits_of_synapses_and_memory_of_neurons():
    """Lists of 8 synapses of 22 bits take 3 words; sums of 2 bytes are stored for up to 5 steps."""
    delays = np.array([0, 1, 5, 2], np.int32)
    layer = lif("hidden", (8,), replace(dense("input", 8, 4), delays=delays))
    (core, _) = map_network(network(layer)).cores
    assert core.synapse_words == 4 * 3
    assert core.memory_bytes == 12 * 8 + 8 * 6 + 8 * 5 * 2
