"""Quantization to the chip's integers: values by hand, and invariants."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from neuro.data.base import InputCoding, InputSpec
from neuro.errors import ExportError
from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.floating import run_graph
from neuro.hardware.loihi2.integer import IntegerDualLIF, IntegerLIF
from neuro.hardware.loihi2.quantize import quantize_graph
from neuro.models.graph import (
    Conv2dNode,
    CubaLIFNode,
    DenseNode,
    DualLIFNode,
    Edge,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
)
from neuro.models.rsnn import RSNN
from neuro.ops.fixed_point import FixedPoint
from tests.hardware.loihi2.test_floating import frames, trained
from tests.models.test_rsnn import NEURONS, SPEC
from tests.networks import MODELS, network


def array(*values: float | list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def small(
    weight: np.ndarray, threshold: float = 0.5, bias: np.ndarray | None = None, tau_ms: float = 20.0
) -> LayerGraph:
    """Input, dense, LIF, dense, readout; tests inspect the dense layer."""
    outputs, inputs = weight.shape
    nodes: dict[str, LayerNode] = {
        "input": InputNode((inputs,)),
        "a/input": DenseNode(weight, bias),
        "a": LIFNode((outputs,), tau_ms, threshold),
        "readout/a": DenseNode(np.ones((2, outputs), np.float32)),
        "readout": ReadoutNode(array(0.5, -0.5)),
    }
    edges = [("input", "a/input"), ("a/input", "a"), ("a", "readout/a"), ("readout/a", "readout")]
    return LayerGraph(nodes, tuple(Edge(*edge) for edge in edges))


def only_layer(graph: LayerGraph, dt_ms: float = 1.0, **widths: int) -> IntegerLIF:
    (layer,) = quantize_graph(graph, dt_ms, FixedPoint(**widths)).network.layers
    assert isinstance(layer, IntegerLIF)
    return layer


def test_mixed_signs_become_even_and_the_largest_is_254() -> None:
    layer = only_layer(small(array([1.0, -0.5, 0.25, 0.004])))
    weight = layer.synapse.weight
    assert (weight % 2 == 0).all()
    assert weight.max() in (252, 254)  # the step is a little larger than needed
    np.testing.assert_allclose(weight / 254, [[1.0, -0.5, 0.25, 0.004]], atol=0.012)


def test_one_sign_keeps_all_bits() -> None:
    layer = only_layer(small(array([1.0, 0.5, 0.0, 0.004])))
    assert layer.synapse.weight.tolist() == [[255, 127, 0, 1]]
    layer = only_layer(small(array([-1.0, -0.5, 0.0, -0.004])))
    assert layer.synapse.weight.tolist() == [[-255, -127, 0, -1]]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 1.7])
@pytest.mark.parametrize("input_bits", [4, 6])
def test_the_threshold_is_exact(threshold: float, input_bits: int) -> None:
    """The smallest membrane potential that fires, 64 vth + 1, represents the float threshold."""
    fixed = FixedPoint(input_bits=input_bits)
    quantized = quantize_graph(small(array([1.0, -0.5]), threshold), 1.0, fixed)
    (layer,), step = quantized.network.layers, quantized.synapses[0].step
    smallest = (64 * layer.vth + 1) * step / (64 * fixed.input_unit)
    assert smallest == pytest.approx(threshold, rel=1e-6)


def test_decays() -> None:
    assert only_layer(small(array([1.0]), tau_ms=5.0), dt_ms=1.0).dv == 742  # 4096 (1 - e^-0.2)
    assert only_layer(small(array([1.0]), tau_ms=100.0), dt_ms=20.0).dv == 742
    assert only_layer(small(array([1.0]), tau_ms=1.0), dt_ms=1000.0).dv == 4095
    assert only_layer(small(array([1.0]), tau_ms=1e9), dt_ms=1.0).dv == 0


def test_biases_take_mantissa_and_exponent() -> None:
    graph = small(array([1.0], [0.5], [0.25]), bias=array(0.125, -0.25, 0.0))
    quantized = quantize_graph(graph, 1.0, FixedPoint())
    (layer,) = quantized.network.layers
    assert isinstance(layer, IntegerLIF) and layer.bias is not None
    wanted = np.array([0.125, -0.25, 0.0]) * 64 * 16 / quantized.synapses[0].step
    assert np.abs(layer.bias - wanted).max() <= (1 << layer.bias_exponent) / 2
    assert np.abs(layer.bias_mantissa).max() <= 4095
    assert quantized.neurons[0].bias_error < 1e-3


def test_a_bias_out_of_range() -> None:
    with pytest.raises(ExportError, match="layer 'a': a bias of .* is larger than the 524160"):
        quantize_graph(small(array([0.01]), bias=array(10.0)), 1.0, FixedPoint())


def test_weights_beyond_the_range_are_counted() -> None:
    """A threshold below one weight step needs clipped weights."""
    quantized = quantize_graph(small(array([100.0, -1.0]), 0.01), 1.0, FixedPoint(weight_bits=2))
    loss = quantized.synapses[0]
    assert loss.clipped == 1
    assert loss.error > 0.5


def test_the_error_increases_with_fewer_bits() -> None:
    graph = trained(network("ltgate", readout="linear")).layer_graph()
    errors = [
        max(s.error for s in quantize_graph(graph, 1.0, FixedPoint(weight_bits=bits)).synapses)
        for bits in (8, 6, 4, 2)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 < errors[2]


@pytest.mark.parametrize("kind", MODELS)
def test_the_rounded_graph_approximates_the_network(kind: str) -> None:
    model = trained(network(kind, readout="linear"))
    graph = model.layer_graph()
    quantized = quantize_graph(graph, 2.0, FixedPoint())
    x = frames(held=False)
    exact = run_graph(graph, x, 2.0, record_spikes=True)
    rounded = run_graph(quantized.rounded, x, 2.0, record_spikes=True)
    for name, spikes in exact.spikes.items():
        assert (rounded.spikes[name] != spikes).float().mean() < 0.1
    assert {layer.name for layer in quantized.network.layers} == {"conv1", "conv2", "dense"}
    synapses = [n for n, node in graph.nodes.items() if isinstance(node, (Conv2dNode, DenseNode))]
    assert sorted(s.name for s in quantized.synapses) == sorted(synapses)


def test_gates_become_eight_bit_fractions() -> None:
    model = network("ltgate", gate="fixed", gamma=0.3)
    quantized = quantize_graph(model.layer_graph(), 1.0, FixedPoint())
    for layer in quantized.network.layers:
        assert isinstance(layer, IntegerDualLIF) and layer.gamma is not None
        assert (layer.gamma == 77).all()  # 0.3 * 256 = 76.8
    assert quantized.neurons[0].gamma_error == pytest.approx(77 / 256 - 0.3, rel=1e-3)
    node = quantized.rounded.nodes["conv1"]
    assert isinstance(node, DualLIFNode) and node.gamma is not None
    assert (node.gamma == 77 / 256).all()


def test_the_graph_is_not_mutated() -> None:
    graph = trained(network("lif")).layer_graph()
    before = {n: node.weight.copy() for n, node in graph.nodes.items() if hasattr(node, "weight")}
    quantize_graph(graph, 1.0, FixedPoint(weight_bits=3))
    for name, weight in before.items():
        np.testing.assert_array_equal(graph.nodes[name].weight, weight)


def test_encoding_of_frames() -> None:
    network_ = quantize_graph(small(array([1.0, 0.5, 0.2, 0.1])), 1.0, FixedPoint(input_bits=6))
    frames_ = np.array([0.0, 1.0, 0.5, 0.51, -1.0, 7.0, -7.0])
    assert network_.network.encode(frames_).tolist() == [0, 16, 8, 8, -16, 31, -32]


def edited(graph: LayerGraph, nodes: dict[str, LayerNode], *edges: Edge) -> LayerGraph:
    """A graph with replaced or added nodes, and with edges that replace those to the same port."""
    replaced = {(edge.target, edge.port) for edge in edges}
    kept = tuple(e for e in graph.edges if (e.target, e.port) not in replaced)
    order = [*graph.nodes, *(n for n in nodes if n not in graph.nodes)]
    order.sort(key=lambda name: name == "readout")
    merged = {**graph.nodes, **nodes}
    return LayerGraph({name: merged[name] for name in order}, (*kept, *edges))


def test_unsupported_graphs_are_refused() -> None:
    graph = small(array([1.0, 0.5]))

    def refused(message: str, nodes: dict[str, LayerNode], *edges: Edge) -> None:
        with pytest.raises(ExportError, match=message):
            quantize_graph(edited(graph, nodes, *edges), 1.0, FixedPoint())

    refused("has one input; this graph has 2", {"other": InputNode((3,))})
    refused(
        "'a' reaches it without a synapse",
        {"b": LIFNode((1,), 1.0, 1.0)},
        Edge("a", "b"),
    )
    refused(
        "follows 'readout/a', which does not spike",
        {"b/input": DenseNode(np.ones((3, 2), np.float32)), "b": LIFNode((3,), 1.0, 1.0)},
        Edge("readout/a", "b/input"),
        Edge("b/input", "b"),
    )
    both = {
        "b/fast": DenseNode(np.ones((3, 2), np.float32)),
        "b/slow": DenseNode(np.ones((3, 1), np.float32)),
        "b": DualLIFNode((3,), 1.0, 2.0, 1.0, None, "or"),
    }
    ends = Edge("b/fast", "b", "fast"), Edge("b/slow", "b", "slow")
    refused(
        "one compartment sees the input and another does not",
        both,
        Edge("input", "b/fast"),
        Edge("a", "b/slow"),
        *ends,
    )
    biased = {**both, "b/fast": DenseNode(np.ones((3, 1), np.float32), array(1.0, 1.0, 1.0))}
    refused("take no bias", biased, Edge("a", "b/fast"), Edge("a", "b/slow"), *ends)


def test_unknown_nodes_are_named() -> None:
    class Strange(LayerNode):
        ports = ()

        @property
        def output_shape(self) -> tuple[int, ...]:
            return (1,)

    graph = small(array([1.0]))
    strange = LayerGraph({**graph.nodes, "odd": Strange()}, graph.edges)
    with pytest.raises(ExportError, match="layer 'odd': Strange has no integer form"):
        quantize_graph(strange, 1.0, FixedPoint())


def test_the_tensors_of_a_readout_without_samples() -> None:
    """An untrained discriminant is all zeros, and can be mapped."""
    quantized = quantize_graph(network("ltgate").layer_graph(), 1.0, FixedPoint())
    for synapse in quantized.network.readout.synapses:
        assert not synapse.weight.any()
    assert torch.isfinite(torch.tensor(quantized.network.readout.scales)).all()


def rsnn_graph(kind: str = "cuba", coding: InputCoding = "real", **options: Any) -> LayerGraph:
    spec = dataclasses.replace(SPEC, inputs=InputSpec((5,), coding=coding))
    torch.manual_seed(0)
    model = RSNN(spec, NEURONS[kind], **{"hidden": (8, 6), **options})
    model.readout.weight.data.normal_()
    return model.layer_graph()


def test_recurrent_weights_share_the_scale_of_the_layer() -> None:
    """A recurrent spike equals an input of 1.0, which is the integer 16 next to a graded input."""
    quantized = quantize_graph(rsnn_graph(), 1.0, FixedPoint())
    first, second = quantized.network.layers
    assert isinstance(first, IntegerLIF) and isinstance(second, IntegerLIF)
    assert first.recurrent is not None and second.recurrent is not None
    assert (first.recurrent.exponent, second.recurrent.exponent) == (4, 0)
    assert first.synapse.graded and not second.synapse.graded
    losses = {loss.name: loss for loss in quantized.synapses}
    assert losses["hidden1/input"].step == losses["hidden1/recurrent"].step
    step = losses["hidden1/recurrent"].step
    node = rsnn_graph().nodes["hidden1/recurrent"]
    assert isinstance(node, DenseNode)
    assert np.abs(first.recurrent.weight * step - node.weight).max() <= step
    assert losses["hidden1/recurrent"].error < 0.02


def test_decays_of_currents_and_of_each_neuron() -> None:
    graph = rsnn_graph()
    quantized = quantize_graph(graph, 1.0, FixedPoint())
    layer, node = quantized.network.layers[0], graph.nodes["hidden1"]
    assert isinstance(layer, IntegerLIF) and isinstance(node, CubaLIFNode)
    kept = 1 - (np.asarray(layer.du) + 1) / 4096, 1 - np.asarray(layer.dv) / 4096
    for found, tau_ms in zip(kept, (node.tau_current_ms, node.tau_ms), strict=True):
        assert found.shape == (8,)
        np.testing.assert_allclose(found, np.exp(-1 / np.asarray(tau_ms)), atol=0.5 / 4096)
    loss = quantized.neurons[0]
    assert 0 < loss.decay_error <= 0.5 / 4096
    assert len(loss.decays) == 2
    assert all(isinstance(ends, tuple) and ends[0] < ends[1] for ends in loss.decays)
    rounded = quantized.rounded.nodes["hidden1"]
    assert isinstance(rounded, CubaLIFNode)
    np.testing.assert_allclose(np.exp(-1 / np.asarray(rounded.tau_ms)), kept[1], rtol=1e-5)
    np.testing.assert_allclose(np.exp(-1 / np.asarray(rounded.tau_current_ms)), kept[0], rtol=1e-5)


@pytest.mark.parametrize("kind", ["lif", "plif", "cuba", "dual"])
def test_recurrent_integers_equal_the_rounded_network(kind: str) -> None:
    """Thresholds keep the states within 24 bits, and inputs have no rounding error."""
    thresholds = {"cuba": 4.0, "dual": 2.0}
    neuron: Any = dataclasses.replace(NEURONS[kind], threshold=thresholds.get(kind, 0.4))
    if kind == "cuba":
        neuron = dataclasses.replace(neuron, tau_current_ms=(2.0, 4.0), tau_ms=(5.0, 10.0))
    torch.manual_seed(0)
    model = RSNN(SPEC, neuron, hidden=(12, 8), readout_tau_ms=10.0)
    model.readout.weight.data.normal_()
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 32, (20, 30, 5), generator=generator) / 16
    quantized = quantize_graph(model.layer_graph(), 1.0, FixedPoint(input_bits=6))
    network = quantized.network
    exact = run_graph(quantized.rounded, x, 1.0, record_spikes=True)
    integer = engine.run(network, network.encode(x.numpy()), record_spikes=True)
    for name, spikes in exact.spikes.items():
        assert 0.01 < spikes.mean() < 0.95
        assert np.mean(integer.spikes[name] != spikes.bool().numpy()) < 0.01
    scores = engine.values(network.readout, integer.readout)
    assert np.abs(scores - exact.values.numpy()).mean() < 0.02 * exact.values.abs().mean()


def test_a_leaky_readout_approximates_the_floats() -> None:
    """Scores of a readout with a known decay, for equal spikes."""
    graph = small(array([1.0, 0.0], [0.0, 1.0]))
    readout = ReadoutNode(array(0.5, -0.5), 10.0)
    leaky = LayerGraph({**graph.nodes, "readout": readout}, graph.edges)
    x = (torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    quantized = quantize_graph(leaky, 1.0, FixedPoint())
    network = quantized.network
    assert network.readout.dv == 390  # 4096 (1 - exp(-0.1))
    integer = engine.run(network, network.encode(x.numpy()))
    expected = run_graph(quantized.rounded, x, 1.0).values.numpy()
    np.testing.assert_allclose(engine.values(network.readout, integer.readout), expected, atol=1e-3)


def test_inputs_that_are_spikes_are_not_graded() -> None:
    spikes = quantize_graph(rsnn_graph(coding="spikes"), 1.0, FixedPoint()).network
    assert (spikes.input_bits, spikes.input_unit) == (2, 1)
    first = spikes.layers[0]
    assert not first.synapses[0].graded and first.recurrent_synapses[0].exponent == 0
    assert spikes.encode(np.array([[0.0, 1.0]])).tolist() == [[0, 1]]
    counts = quantize_graph(rsnn_graph(coding="counts"), 1.0, FixedPoint()).network
    assert (counts.input_bits, counts.input_unit) == (6, 1)
    assert counts.layers[0].synapses[0].graded
    assert counts.encode(np.array([[0.0, 3.0, 99.0]])).tolist() == [[0, 3, 31]]


def test_too_many_input_bits_for_a_recurrent_layer() -> None:
    message = "need the exponent 10 beside inputs of 12 bits; .* Use hardware.input_bits=9"
    with pytest.raises(ExportError, match=message):
        quantize_graph(rsnn_graph(), 1.0, FixedPoint(input_bits=12))
    quantize_graph(rsnn_graph(), 1.0, FixedPoint(input_bits=9))
    quantize_graph(rsnn_graph(recurrent=False), 1.0, FixedPoint(input_bits=12))


@pytest.mark.parametrize("delay_kind", ["axonal", "synaptic"])
def test_delays_become_steps(delay_kind: str) -> None:
    graph = rsnn_graph(delays_ms=6.0, delay_kind=delay_kind)
    quantized = quantize_graph(graph, 1.0, FixedPoint())
    node, layer = graph.nodes["hidden1/input"], quantized.network.layers[0]
    assert isinstance(node, DenseNode) and node.delays_ms is not None
    delays = layer.synapses[0].delays
    assert delays is not None and np.unique(delays).size > 2
    np.testing.assert_array_equal(delays, np.rint(node.delays_ms))
    coarse = quantize_graph(graph, 2.0, FixedPoint()).network.layers[0].synapses[0].delays
    np.testing.assert_array_equal(coarse, np.rint(node.delays_ms / 2))
    message = "delays from 'input' span .* steps; the chip's synapses delay by 0 to 63"
    with pytest.raises(ExportError, match=message):
        quantize_graph(graph, 0.05, FixedPoint())
