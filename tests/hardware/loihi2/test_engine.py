"""The engine against a plain simulator that steps single samples through the whole network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import prod
from operator import add
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.comparison import first_difference
from neuro.hardware.loihi2.counts import READOUT, LayerTotals
from neuro.hardware.loihi2.integer import (
    IntegerDualLIF,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from tests.hardware.networks import (
    delayed_network,
    random_inputs,
    random_network,
    recurrent_network,
)

Array = NDArray[np.int64]
HIGHEST = 2**23 - 1


class Simulation(NamedTuple):
    readout: list[Array]  # [B, T, K]
    spikes: dict[str, Array]  # [T, B, *shape]
    membranes: dict[str, Array]  # [compartments, T, B, neurons], before the reset
    totals: dict[str, Counter[str]]
    seen: Counter[str]  # counts of special cases in the arithmetic


def summed(synapse: IntegerSynapse, x: Array) -> Array:
    """One sample and step, `[C, H, W]` or flat."""
    weight = synapse.weight.astype(np.int64)
    if not synapse.graded:
        x = (x != 0).astype(np.int64)
    if not synapse.is_convolution:
        return weight @ x.ravel()
    (top, left), (down, right) = synapse.padding, synapse.stride
    x = np.pad(x, ((0, 0), (top, top), (left, left)))
    kh, kw = weight.shape[2:]
    height, width = (x.shape[1] - kh) // down + 1, (x.shape[2] - kw) // right + 1
    out = np.zeros((len(weight), height, width), np.int64)
    for i in range(height):
        for j in range(width):
            patch = x[:, i * down : i * down + kh, j * right : j * right + kw]
            out[:, i, j] = (weight * patch).sum((1, 2, 3))
    return (out + 2**23) % 2**24 - 2**23


def operations(synapse: IntegerSynapse, x: Array) -> tuple[int, int]:
    """Products of non-zero weights and non-zero inputs, and all products."""
    events = replace(synapse, weight=(synapse.weight != 0).astype(np.int32))
    potential = replace(synapse, weight=np.ones_like(synapse.weight))
    return int(summed(events, (x != 0).astype(np.int64)).sum()), int(
        summed(potential, np.ones_like(x)).sum()
    )


def toward_zero(x: Array, bits: int) -> Array:
    return np.sign(x) * (np.abs(x) >> bits)


def per_neuron(value: Any, shape: tuple[int, ...]) -> Any:
    """A register, or those of channels, broadcastable over a layer of `shape`."""
    return np.reshape(value, (-1, *(1,) * (len(shape) - 1))).astype(np.int64)


def parts(synapse: IntegerSynapse) -> list[tuple[int, IntegerSynapse]]:
    """The delays of a synapse, and its weights with each delay."""
    if synapse.delays is None:
        return [(0, synapse)]
    delays = np.broadcast_to(synapse.delays, synapse.weight.shape)
    return [
        (int(d), replace(synapse, weight=np.where(delays == d, synapse.weight, 0), delays=None))
        for d in np.unique(delays)
    ]


def simulate(network: IntegerNetwork, inputs: NDArray[np.integer[Any]]) -> Simulation:
    batch, steps = inputs.shape[:2]
    synapses = network.readout.synapses
    totals = {layer.name: Counter[str]() for layer in network.layers} | {READOUT: Counter[str]()}
    seen = Counter[str]()
    result = Simulation(
        [np.zeros((batch, steps, len(s.weight)), np.int64) for s in synapses],
        {m.name: np.zeros((steps, batch, *m.shape), np.int64) for m in network.layers},
        {
            m.name: np.zeros((len(m.synapses), steps, batch, prod(m.shape)), np.int64)
            for m in network.layers
        },
        totals,
        seen,
    )

    def drive(
        name: str, synapses: Sequence[IntegerSynapse], past: Sequence[dict[str, Array]]
    ) -> list[Array]:
        """Sums of synapses from the spikes of all steps so far."""
        for source in {s.source for s in synapses}:
            totals[name]["inputs"] += np.count_nonzero(past[-1][source])
        found = []
        for s in synapses:
            total: Any = 0
            for delay, part in parts(s):
                x = past[-1 - delay][s.source] if delay < len(past) else 0 * past[-1][s.source]
                effective = operations(part, x)[0]
                totals[name]["synaptic_macs" if s.graded else "synaptic_acs"] += effective
                total = total + summed(part, x)
                seen["delayed spikes"] += delay > 0 and x.any()
            totals[name]["dense_synaptic_operations"] += operations(s, past[-1][s.source])[1]
            found.append(total)
        return found

    for b in range(batch):
        u = {m.name: np.zeros(m.shape, np.int64) for m in network.layers}
        v = {m.name: [np.zeros(m.shape, np.int64) for _ in m.synapses] for m in network.layers}
        past: list[dict[str, Array]] = []
        for t in range(steps):
            sent = {"input": inputs[b, t].astype(np.int64)}
            past.append(sent)
            for m in network.layers:
                before = [x.copy() for x in v[m.name]]
                decays: tuple[Any, ...] = (0, 0)
                if isinstance(m, IntegerLIF):
                    decays = (per_neuron(m.dv, m.shape),)
                    kept = 4096 - (per_neuron(m.du, m.shape) + 1)
                    u[m.name] = toward_zero(u[m.name] * kept, 12)
                else:
                    decays = (m.dv_fast, m.dv_slow)
                arriving = drive(m.name, m.synapses, past)
                for k, own in enumerate(m.recurrent_synapses):
                    last = result.spikes[m.name][t - 1, b] if t else np.zeros(m.shape, np.int64)
                    effective, potential = operations(own, last)
                    totals[m.name]["synaptic_acs"] += effective
                    totals[m.name]["dense_synaptic_operations"] += potential
                    seen["recurrent spikes"] += int(last.sum())
                    arriving[k] = arriving[k] + summed(own, last) * 2**own.exponent
                for k, a in enumerate(arriving):
                    new = (u[m.name] if isinstance(m, IntegerLIF) else 0) + (a << 6)
                    wraps = (new > 2**23).astype(int) - (new <= -(2**23))
                    seen["wrap of u"] += np.count_nonzero(wraps)
                    new = new - 2**24 * wraps
                    if isinstance(m, IntegerLIF):
                        u[m.name] = new
                        if m.bias is not None:
                            new = new + m.bias.reshape(-1, *(1,) * (len(m.shape) - 1))
                    new = toward_zero(v[m.name][k] * (4096 - decays[k]), 12) + new
                    seen["saturation of v"] += np.count_nonzero(np.abs(new) > HIGHEST)
                    v[m.name][k] = np.clip(new, -HIGHEST, HIGHEST)
                    result.membranes[m.name][k, t, b] = v[m.name][k].ravel()
                theta = m.vth << 6
                if isinstance(m, IntegerDualLIF) and m.gamma is not None:
                    gamma = m.gamma.astype(np.int64).reshape(-1, *(1,) * (len(m.shape) - 1))
                    merged = toward_zero(gamma * v[m.name][0] + (256 - gamma) * v[m.name][1], 8)
                    fired = [merged > theta] * 2
                else:
                    fired = [x > theta for x in v[m.name]]
                for x, s in zip(v[m.name], fired, strict=True):
                    x[s] = x[s] - (theta + 1) if m.reset == "subtract" else 0
                spikes = np.logical_or.reduce(fired).astype(np.int64)
                sent[m.name] = result.spikes[m.name][t, b] = spikes
                totals[m.name]["spikes"] += int(spikes.sum())
                changed = [x != y for x, y in zip(v[m.name], before, strict=True)]
                updates = len(before) * spikes.size if t == 0 else np.count_nonzero(changed)
                totals[m.name]["neuron_updates"] += updates
            for into, a in zip(result.readout, drive(READOUT, synapses, past), strict=True):
                dv, changed_now = network.readout.dv, a
                if dv is not None:
                    before_now = into[b, t - 1] if t else 0 * a
                    a = toward_zero(before_now * (4096 - dv), 12) + (a << 6)
                    a = np.clip(a, -HIGHEST, HIGHEST)
                    changed_now = a - before_now
                into[b, t] = a
                updates = a.size if t == 0 else np.count_nonzero(changed_now)
                totals[READOUT]["neuron_updates"] += updates
    return result


def assert_equal(network: IntegerNetwork, output: engine.EngineOutput, truth: Simulation) -> None:
    layers = [m.name for m in network.layers]
    assert list(output.spikes) == list(output.membranes) == layers
    assert first_difference(output.spikes, truth.spikes) is None
    for name in layers:
        np.testing.assert_array_equal(output.membranes[name], truth.membranes[name])
    for ours, theirs in zip(output.readout, truth.readout, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    batch, steps = truth.readout[0].shape[:2]
    sizes = [prod(m.shape) for m in network.layers]
    sizes.append(sum(len(s.weight) for s in network.readout.synapses))
    assert output.counts == tuple(
        LayerTotals(
            name=name,
            neurons=size,
            inferences=batch,
            steps=batch * steps,
            **{
                kind: truth.totals[name][kind]
                for kind in (
                    "inputs",
                    "spikes",
                    "synaptic_macs",
                    "synaptic_acs",
                    "dense_synaptic_operations",
                    "neuron_updates",
                )
            },
        )
        for name, size in zip([*layers, READOUT], sizes, strict=True)
    )


def run(network: IntegerNetwork, inputs: NDArray[Any], **options: Any) -> engine.EngineOutput:
    everything = {m.name: None for m in network.layers}
    return engine.run(network, inputs, record_spikes=True, membranes=everything, **options)


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_the_simulator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, skips=seed % 2 == 1)
    inputs = random_inputs(rng, network, batch=2, steps=7)
    assert_equal(network, run(network, inputs), simulate(network, inputs))


def mostly_dense(rng: np.random.Generator, seed: int) -> IntegerNetwork:
    """A recurrent network; two of three have dense layers only, the first one may be graded."""
    if seed % 3 == 0:
        return recurrent_network(rng)
    neurons = [("lif", "lif"), ("gate", "lif"), ("lif", "or")][seed % 4 % 3]
    return recurrent_network(rng, connections=("dense", "dense"), neurons=neurons)


@pytest.mark.parametrize("seed", range(24))
def test_recurrent_networks_agree_with_the_simulator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = mostly_dense(rng, seed)
    inputs = random_inputs(rng, network, batch=2, steps=9)
    assert_equal(network, run(network, inputs), simulate(network, inputs))


@pytest.mark.parametrize("seed", range(12))
def test_delayed_networks_agree_with_the_simulator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = delayed_network(rng, longest=2 if seed % 3 else 20)
    inputs = random_inputs(rng, network, batch=1, steps=7)
    if seed % 4:
        assert_equal(network, run(network, inputs), simulate(network, inputs))
    else:  # a held frame
        truth = simulate(network, np.repeat(inputs[:, :1], 7, axis=1))
        assert_equal(network, run(network, inputs[:, :1], frames=7), truth)


def test_delayed_networks_send_delayed_spikes() -> None:
    """The networks of the test above include delays of inputs and of synapses."""
    kinds, spikes = Counter[int](), 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        network = delayed_network(rng, longest=2 if seed % 3 else 20)
        inputs = random_inputs(rng, network, batch=1, steps=7)
        spikes += simulate(network, inputs).seen["delayed spikes"]
        synapses = [s for m in network.layers for s in m.synapses]
        kinds.update(s.delays.ndim for s in synapses if s.delays is not None)
    assert spikes > 20
    assert min(kinds[1], kinds[2]) >= 3


def test_recurrent_networks_cover_all_cases() -> None:
    """Recurrent spikes, exponents, decays per neuron and leaky readouts of the networks above."""
    seen = Counter[str]()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        network = mostly_dense(rng, seed)
        seen += simulate(network, random_inputs(rng, network, batch=2, steps=9)).seen
        seen["leaky readout"] += network.readout.dv is not None
        for m in network.layers:
            recurrent = m.recurrent_synapses
            seen["recurrent gate"] += isinstance(m, IntegerDualLIF) and bool(recurrent)
            seen["recurrent LIF"] += isinstance(m, IntegerLIF) and bool(recurrent)
            seen["exponents"] += any(s.exponent for s in recurrent)
            seen["own decays"] += isinstance(m, IntegerLIF) and isinstance(m.dv, np.ndarray)
    assert len(seen) == 8
    assert min(seen.values()) >= 3, seen


def test_padding_is_neither_simulated_nor_counted() -> None:
    rng = np.random.default_rng(7)
    network = recurrent_network(rng, connections=("dense", "dense"), neurons=("lif", "gate"))
    inputs = random_inputs(rng, network, batch=5, steps=9)
    lengths = [4, 9, 1, 4, 6]
    padded = run(network, inputs, lengths=lengths, memory_mib=1)
    alone = [run(network, inputs[i : i + 1, :length]) for i, length in enumerate(lengths)]
    for i, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        for name, spikes in padded.spikes.items():
            np.testing.assert_array_equal(spikes[:length, i], one.spikes[name][:, 0])
            assert not spikes[length:, i].any()
        for whole, own in zip(padded.readout, one.readout, strict=True):
            np.testing.assert_array_equal(whole[i, :length], own[0])
        for name, v in padded.membranes.items():
            np.testing.assert_array_equal(v[:, :length, i], one.membranes[name][:, :, 0])
    totals = zip(*(one.counts for one in alone), strict=True)
    assert padded.counts == tuple(reduce(add, layer) for layer in totals)


def test_random_networks_cover_all_cases() -> None:
    """The networks of the test above cover all special cases of the arithmetic."""
    seen = Counter[str]()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        network = random_network(rng, skips=seed % 2 == 1)
        simulation = simulate(network, random_inputs(rng, network, batch=1, steps=4))
        seen += simulation.seen
        for m in network.layers:
            rate = simulation.spikes[m.name].mean()
            seen["fires and rests"] += 0 < rate < 1
            seen["convolution"] += len(m.shape) == 3
            seen["bias"] += isinstance(m, IntegerLIF) and m.bias is not None
            seen["u with a memory"] += isinstance(m, IntegerLIF) and m.du < 4095
            seen["gate"] += isinstance(m, IntegerDualLIF) and m.merge == "gate"
            seen["or"] += isinstance(m, IntegerDualLIF) and m.merge == "or"
            seen["two sources"] += len({s.source for s in m.synapses}) == 2
    assert len(seen) == 9
    assert min(seen.values()) >= 3, seen


@pytest.mark.parametrize("seed", range(6))
def test_a_held_frame_equals_its_repetition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, skips=True)
    frame = random_inputs(rng, network, batch=3, steps=1)
    truth = simulate(network, np.repeat(frame, 9, axis=1))
    assert_equal(network, run(network, frame, frames=9), truth)
    assert_equal(network, run(network, np.repeat(frame, 9, axis=1)), truth)


def test_chunks_equal_the_whole() -> None:
    rng = np.random.default_rng(3)
    network = random_network(rng, connections=("conv", "dense"))
    inputs = random_inputs(rng, network, batch=700, steps=40)
    chunk = engine._Program(network, {}).chunk_size(1, 40, 40)
    assert 1 <= chunk < 350
    whole, parts = (run(network, inputs, memory_mib=memory) for memory in (1000, 1))
    assert first_difference(whole.spikes, parts.spikes) is None
    assert whole.counts == parts.counts
    for one, other in zip(whole.readout, parts.readout, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, membrane in whole.membranes.items():
        np.testing.assert_array_equal(membrane, parts.membranes[name])


def test_sums_of_convolutions_wrap_at_24_bits() -> None:
    """Lava wraps the sums of convolutions at 24 bits, but not those of dense layers."""

    def network(weight: NDArray[np.int32]) -> IntegerNetwork:
        synapse = IntegerSynapse("input", weight, graded=True)
        shape = (2, 1, 1) if synapse.is_convolution else (2,)
        layer = IntegerLIF("layer", shape, synapse, dv=0, vth=1, reset="zero")
        read = IntegerSynapse("layer", np.ones((1, 2), np.int32))
        readout = IntegerReadout((read,), (1.0,), np.zeros(1))
        return IntegerNetwork((1, 3, 3), 20, 1, 1.0, (layer,), readout)

    weight = np.full((2, 1, 3, 3), 255, np.int32)
    inputs = np.full((1, 1, 1, 3, 3), 7311, np.int32)
    v = {}
    for kind, w in (("conv", weight), ("dense", weight.reshape(2, 9))):
        net = network(w)
        output = run(net, inputs)
        assert_equal(net, output, simulate(net, inputs))
        v[kind] = output.membranes["layer"][0, 0, 0, 0]
    total = 9 * 255 * 7311
    assert total > 2**24
    assert v == {"conv": (total - 2**24) << 6, "dense": HIGHEST}


def test_inputs_are_not_mutated_and_have_any_integer_type() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, input_bits=8)
    inputs = random_inputs(rng, network, batch=2, steps=5)
    weights = [s.weight.copy() for m in network.layers for s in m.synapses]
    before = inputs.copy()
    inputs.setflags(write=False)
    expected = run(network, inputs)
    np.testing.assert_array_equal(inputs, before)
    for copy, s in zip(weights, (s for m in network.layers for s in m.synapses), strict=True):
        np.testing.assert_array_equal(s.weight, copy)
    for other in (inputs.astype(np.int64), inputs.astype(np.int8), np.asfortranarray(inputs)):
        assert first_difference(run(network, other).spikes, expected.spikes) is None


def test_records_are_none_unless_requested() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, connections=("conv", "dense"), neurons=("gate", "lif"))
    inputs = random_inputs(rng, network, batch=2, steps=5)
    everything = run(network, inputs)
    bare = engine.run(network, inputs)
    assert (bare.spikes, bare.membranes) == ({}, {})
    assert bare.counts == everything.counts
    some = engine.run(network, inputs, membranes={"layer1": [5, 0, 7]})
    expected = everything.membranes["layer1"][..., [5, 0, 7]]
    np.testing.assert_array_equal(some.membranes["layer1"], expected)
    assert list(some.membranes) == ["layer1"]


def test_flat_inputs() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, connections=("dense", "dense"), input_bits=8)
    inputs = random_inputs(rng, network, batch=2, steps=5)
    flat = replace(network, input_shape=(prod(network.input_shape),))
    output = run(flat, inputs.reshape(2, 5, -1))
    assert first_difference(output.spikes, run(network, inputs).spikes) is None


def test_values_scale_add_and_shift() -> None:
    synapse = IntegerSynapse("layer", np.ones((2, 3), np.int32))
    readout = IntegerReadout((synapse, synapse), (0.5, 2.0), np.array([1.0, -1.0]))
    sums = np.array([[[3, 4]]], np.int32), np.array([[[10, 20]]], np.int32)
    scores = engine.values(readout, sums)
    assert scores.dtype == np.float64
    assert scores.tolist() == [[[1 + 1.5 + 20, -1 + 2 + 40]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": np.zeros((1, 2, 1, 4, 4))}, "inputs are integers.*got float64"),
        ({"inputs": np.zeros((1, 2, 1, 4, 5), int)}, r"inputs must be \[B, T, 1, 4, 4\]"),
        ({"inputs": np.zeros((0, 2, 1, 4, 4), int)}, "and not empty; got"),
        ({"inputs": np.full((1, 2, 1, 4, 4), 8)}, r"inputs have 4 bits, -8 .. 7; got 8 .. 8"),
        ({"frames": 3}, "frames=3, but the inputs have 2; only 1 can be held"),
        ({"frames": 0}, "frames=0, but"),
        ({"membranes": {"layer2": None}}, "no layer 'layer2'.*Did you mean 'layer1'"),
        ({"membranes": {"layer1": [0, 99]}}, "layer 'layer1' has the neurons 0 .. .*; got 99"),
    ],
)
def test_bad_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    network = random_network(np.random.default_rng(0), connections=("dense",), input_bits=4)
    dense = network.layers[0].synapses[0]
    network = replace(
        network,
        input_shape=(1, 4, 4),
        layers=(
            IntegerLIF(
                "layer1",
                network.layers[0].shape,
                replace(dense, weight=np.ones((len(dense.weight), 16), np.int32)),
                dv=0,
                vth=1,
                reset="zero",
            ),
        ),
    )
    arguments: dict[str, Any] = {"inputs": np.zeros((1, 2, 1, 4, 4), int)} | changes
    with pytest.raises(ValueError, match=message):
        engine.run(network, **arguments)
