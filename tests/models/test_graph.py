"""Checks of nodes and edges on the construction of layer graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.errors import ExportError
from neuro.models.graph import (
    Conv2dNode,
    CubaLIFNode,
    DenseNode,
    DualLIFNode,
    Edge,
    FlattenNode,
    InputNode,
    LayerGraph,
    LIFNode,
    ReadoutNode,
)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def nodes():
    return {
        "input": InputNode((2, 5, 4)),
        "conv": Conv2dNode((2, 5, 4), zeros(3, 2, 3, 2), (2, 1), (1, 0)),
        "lif": LIFNode((3, 3, 3), 20.0, 0.5),
        "flat": FlattenNode((3, 3, 3)),
        "fast": DenseNode(zeros(4, 27)),
        "slow": DenseNode(zeros(4, 27), zeros(4)),
        "dual": DualLIFNode((4,), 5.0, 100.0, 0.5, zeros(4)),
        "scores": DenseNode(zeros(2, 4)),
        "more": DenseNode(zeros(2, 27)),
        "readout": ReadoutNode(zeros(2)),
    }


EDGES = (
    Edge("input", "conv"),
    Edge("conv", "lif"),
    Edge("lif", "flat"),
    Edge("flat", "fast"),
    Edge("flat", "slow"),
    Edge("fast", "dual", "fast"),
    Edge("slow", "dual", "slow"),
    Edge("dual", "scores"),
    Edge("scores", "readout"),
    Edge("flat", "more"),
    Edge("more", "readout"),
)


def test_a_graph_knows_shapes_and_sources():
    graph = LayerGraph(nodes(), EDGES)
    assert graph.nodes["conv"].input_shape == (2, 5, 4)
    assert graph.nodes["conv"].output_shape == (3, 3, 3)
    assert graph.nodes["flat"].output_shape == (27,)
    assert graph.sources("readout") == ("scores", "more")
    assert graph.sources("dual", "slow") == ("slow",)
    assert graph.sources("input") == ()


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_a_convolution_has_the_shape_that_torch_gives(stride, padding):
    node = Conv2dNode((2, 9, 7), zeros(3, 2, 3, 2), stride, padding)
    out = torch.nn.functional.conv2d(
        torch.zeros(2, 9, 7), torch.from_numpy(node.weight), stride=stride, padding=padding
    )
    assert node.output_shape == out.shape


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge("lif", "gone"), r"edge lif -> gone\.input: there is no node 'gone'"),
        (Edge("gone", "lif"), r"edge gone -> lif\.input: there is no node 'gone'"),
        (
            Edge("dual", "fast"),
            r"edge dual -> fast\.input goes backwards; only synapses",
        ),
        (Edge("lif", "lif"), r"edge lif -> lif\.input goes backwards"),
        (Edge("fast", "dual"), r"edge fast -> dual\.input: DualLIFNode has the ports fast, slow"),
        (Edge("flat", "dual", "gate"), r"flat -> dual\.gate: DualLIFNode has the ports fast, slow"),
        (
            Edge("lif", "scores"),
            r"lif -> scores\.input: 'lif' gives \[3, 3, 3\], 'scores' takes \[4\]",
        ),
        (
            Edge("flat", "dual", "slow"),
            r"flat -> dual\.slow: 'flat' gives \[27\], 'dual' takes \[4\]",
        ),
    ],
)
def test_a_bad_edge_names_both_ends(edge, message):
    with pytest.raises(ExportError, match=message):
        LayerGraph(nodes(), (*EDGES, edge))


def test_an_empty_graph():
    with pytest.raises(ExportError, match="a layer graph has at least one node; got none"):
        LayerGraph({}, ())


@pytest.mark.parametrize("edge", [EDGES[0], EDGES[5]])
def test_a_duplicate_edge(edge):
    name = rf"{edge.source} -> {edge.target}\.{edge.port}"
    with pytest.raises(
        ExportError, match=f"edge {name} is given twice; double the weights instead"
    ):
        LayerGraph(nodes(), (*EDGES, edge))


def test_edges_to_an_input_are_refused():
    inputs = {"input": InputNode((4,)), "second": InputNode((4,))}
    with pytest.raises(ExportError, match=r"input -> second\.input: InputNode has the ports none"):
        LayerGraph(inputs, (Edge("input", "second"),))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (Edge("conv", "lif"), "node 'lif': nothing is connected to its port 'input'"),
        (Edge("slow", "dual", "slow"), "node 'dual': nothing is connected to its port 'slow'"),
    ],
)
def test_an_unconnected_port(missing, message):
    with pytest.raises(ExportError, match=message):
        LayerGraph(nodes(), tuple(edge for edge in EDGES if edge != missing))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Conv2dNode((2, 5, 4), zeros(3, 1, 3, 3)),
            r"a convolution of \[2, 5, 4\] needs a weight \[outputs, 2, height, width\]; "
            r"got \[3, 1, 3, 3\]",
        ),
        (lambda: Conv2dNode((20,), zeros(3, 2, 3, 3)), r"a convolution of \[20\] needs a weight"),
        (lambda: Conv2dNode((2, 5, 4), zeros(3, 18)), r"needs a weight .*; got \[3, 18\]"),
        (
            lambda: Conv2dNode((2, 5, 4), zeros(3, 2, 7, 3), padding=(0, 1)),
            r"a kernel of \[7, 3\] does not fit into \[2, 5, 4\] with padding \[0, 1\]",
        ),
        (
            lambda: Conv2dNode((2, 5, 4), zeros(3, 2, 3, 3), bias=zeros(2)),
            r"a bias of shape \[3\] is needed; got \[2\]",
        ),
        (lambda: DenseNode(zeros(4)), r"a dense weight has two dimensions; got \[4\]"),
        (lambda: DenseNode(zeros(4, 3), zeros(3)), r"a bias of shape \[4\] is needed; got \[3\]"),
        (lambda: LIFNode((4,), 0.0, 0.5), "tau_ms must be above 0; got 0.0"),
        (lambda: LIFNode((4,), 20.0, -0.5), "threshold must be above 0 and finite; got -0.5"),
        (
            lambda: LIFNode((4,), 20.0, float("inf")),
            "threshold must be above 0 and finite; got inf",
        ),
        (
            lambda: LIFNode((4,), 20.0, 0.5, "hard"),
            "reset must be one of subtract, zero; got 'hard'",
        ),
        (lambda: LIFNode((4,), float("nan"), 0.5), "tau_ms must be above 0; got nan"),
        (lambda: DualLIFNode((4,), 0.0, 9.0, 0.5, zeros(4)), "tau_fast_ms must be above 0"),
        (lambda: DualLIFNode((4,), 5.0, 0.0, 0.5, zeros(4)), "tau_slow_ms must be above 0"),
        (lambda: DualLIFNode((4,), 5.0, 9.0, 0.0, zeros(4)), "threshold must be above 0"),
        (
            lambda: DualLIFNode((4, 2, 2), 5.0, 9.0, 0.5, None),
            r"merge=gate needs a gamma of shape \[4\]; got None",
        ),
        (
            lambda: DualLIFNode((4, 2, 2), 5.0, 9.0, 0.5, zeros(2)),
            r"merge=gate needs a gamma of shape \[4\]; got \[2\]",
        ),
        (
            lambda: DualLIFNode((4,), 5.0, 9.0, 0.5, zeros(4), "or"),
            r"merge=or takes no gamma; got one of shape \[4\]",
        ),
        (
            lambda: DualLIFNode((4,), 5.0, 9.0, 0.5, None, "and"),
            "merge must be one of gate, or; got 'and'",
        ),
        (
            lambda: DualLIFNode((4,), 5.0, 9.0, 0.5, zeros(4), reset="hard"),
            "reset must be one of subtract, zero; got 'hard'",
        ),
        (
            lambda: Conv2dNode((2, 5, 4), np.zeros((3, 2, 3, 3))),
            "the weight of a convolution must be fl",
        ),
        (
            lambda: Conv2dNode((2, 5, 4), zeros(3, 2, 3, 3), (0, 1)),
            r"a stride of at least 1 and a padding of at least 0; got \[0, 1\] and \[0, 0\]",
        ),
        (
            lambda: DenseNode(np.zeros((4, 3))),
            "the weight of a dense layer must be float32; got float64",
        ),
        (lambda: DenseNode(zeros(4, 3), np.zeros(4)), "the bias of a dense layer must be float32"),
        (
            lambda: DualLIFNode((4,), 5.0, 9.0, 0.5, np.zeros(4)),
            "the gamma of a dual-timescale LIF must",
        ),
        (lambda: ReadoutNode(np.zeros(2)), "the bias of a readout must be float32; got float64"),
        (lambda: ReadoutNode(zeros(2, 1)), r"a readout's bias has one dimension; got \[2, 1\]"),
        (lambda: DualLIFNode((4,), 5.0, 9.0, 0.5, zeros(4) + 1.5), r"gamma must be in \[0, 1\]"),
        (lambda: DualLIFNode((4,), 5.0, 9.0, 0.5, zeros(4) * np.nan), r"gamma must be in \[0, 1\]"),
    ],
)
def test_inconsistent_nodes(make, message):
    with pytest.raises(ExportError, match=message):
        make()


def test_gamma_is_not_needed_where_either_compartment_fires():
    assert DualLIFNode((4,), 5.0, 9.0, 0.5, None, merge="or").output_shape == (4,)


def test_neurons_without_leak():
    assert LIFNode((4,), float("inf"), 0.5).tau_ms == float("inf")
    DualLIFNode((4,), 5.0, float("inf"), 0.5, zeros(4))


ITSELF = Edge("a", "own", recurrent=True)


def recurrent(own):
    """Input, dense, neurons with a recurrent synapse, dense, readout."""
    made = {
        "input": InputNode((3,), "spikes"),
        "in": DenseNode(zeros(2, 3)),
        "own": DenseNode(zeros(2, 2)),
        "a": CubaLIFNode((2,), 5.0, np.array([10, 20], np.float32), 0.5),
        "scores": DenseNode(zeros(2, 2)),
        "readout": ReadoutNode(zeros(2), 20.0),
    }
    edges = [("input", "in"), ("in", "a"), ("a", "scores"), ("scores", "readout")]
    return LayerGraph(made, (*(Edge(*edge) for edge in edges), *own))


def test_a_recurrent_layer():
    graph = recurrent((ITSELF, Edge("own", "a")))
    assert graph.sources("a") == ("in", "own")
    assert [name for name in graph.nodes if graph.is_recurrent(name)] == ["own"]


@pytest.mark.parametrize(
    "own",
    [
        (ITSELF, Edge("own", "a"), Edge("own", "readout")),
        (ITSELF, Edge("in", "own"), Edge("own", "a")),
        (Edge("in", "own", recurrent=True), Edge("own", "a")),
        (ITSELF,),
    ],
    ids=["to others too", "from others too", "from a synapse", "to nothing"],
)
def test_recurrent_edges_outside_of_a_loop(own):
    with pytest.raises(ExportError, match="is recurrent; it must lead from neurons to a synapse"):
        recurrent(own)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LIFNode((3,), np.ones(2, np.float32), 0.5),
            r"one number or have .* \[3\]",
        ),
        (lambda: LIFNode((2,), np.ones(2), 0.5), "the tau_ms of neurons must be float32"),
        (lambda: LIFNode((2,), np.float32([1, 0]), 0.5), "tau_ms must be above 0; got 0.0"),
        (lambda: CubaLIFNode((2,), 0.0, 9.0, 0.5), "tau_current_ms must be above 0; got 0.0"),
        (lambda: DenseNode(zeros(2, 3), None, zeros(2)), r"inputs \[3\] or of synapses \[2, 3\]"),
        (lambda: DenseNode(zeros(2, 3), None, zeros(3) - 1), "delays_ms must be at least 0"),
        (lambda: ReadoutNode(zeros(2), -1.0), "tau_ms of a readout must be above 0; got -1.0"),
        (
            lambda: InputNode((2,), "codes"),
            "coding must be one of real, spikes, counts",
        ),
    ],
)
def test_inconsistent_neurons_and_inputs(make, message):
    with pytest.raises(ExportError, match=message):
        make()
