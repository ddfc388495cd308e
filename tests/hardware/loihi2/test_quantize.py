"""Quantization to the chip's integers: values computed by hand, and invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.errors import ExportError
from neuro.hardware.loihi2.floating import run_graph
from neuro.hardware.loihi2.integer import IntegerDualLIF, IntegerLIF
from neuro.hardware.loihi2.quantize import quantize_graph
from neuro.models.graph import (
    Conv2dNode,
    DenseNode,
    DualLIFNode,
    Edge,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
)
from neuro.ops.fixed_point import FixedPoint
from tests.hardware.loihi2.test_floating import frames, trained
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
    """The smallest firing membrane, 64 vth + 1, stands for the float threshold."""
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


def test_a_bias_that_does_not_fit() -> None:
    with pytest.raises(ExportError, match="layer 'a': a bias of .* is larger than the 524160"):
        quantize_graph(small(array([0.01]), bias=array(10.0)), 1.0, FixedPoint())


def test_weights_beyond_the_range_are_counted() -> None:
    """A threshold below one weight step needs clipped weights."""
    quantized = quantize_graph(small(array([100.0, -1.0]), 0.01), 1.0, FixedPoint(weight_bits=2))
    loss = quantized.synapses[0]
    assert loss.clipped == 1
    assert loss.error > 0.5


def test_fewer_bits_lose_more() -> None:
    graph = trained(network("ltgate", readout="linear")).layer_graph()
    errors = [
        max(s.error for s in quantize_graph(graph, 1.0, FixedPoint(weight_bits=bits)).synapses)
        for bits in (8, 6, 4, 2)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 < errors[2]


@pytest.mark.parametrize("kind", MODELS)
def test_the_rounded_graph_is_near_the_network(kind: str) -> None:
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


def test_nothing_is_changed_in_the_graph() -> None:
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
    """A graph with other nodes in places, and with edges instead of those to the same port."""
    replaced = {(edge.target, edge.port) for edge in edges}
    kept = tuple(e for e in graph.edges if (e.target, e.port) not in replaced)
    order = [*graph.nodes, *(n for n in nodes if n not in graph.nodes)]
    order.sort(key=lambda name: name == "readout")
    merged = {**graph.nodes, **nodes}
    return LayerGraph({name: merged[name] for name in order}, (*kept, *edges))


def test_what_a_chip_cannot_hold() -> None:
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
    """An untrained discriminant is all zeros, and can be mapped all the same."""
    quantized = quantize_graph(network("ltgate").layer_graph(), 1.0, FixedPoint())
    for synapse in quantized.network.readout.synapses:
        assert not synapse.weight.any()
    assert torch.isfinite(torch.tensor(quantized.network.readout.scales)).all()
