"""Export of spiking layers and a readout as a layer graph for hardware targets."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from torch import Tensor, nn

from neuro.errors import ExportError
from neuro.layers.dual_timescale import DualTimescaleLayer
from neuro.layers.lif import LIFLayer
from neuro.layers.spiking import SpikingLayer
from neuro.layers.synapse import AnySynapse, weight_in_use
from neuro.models.graph import (
    Array,
    Conv2dNode,
    DenseNode,
    DualLIFNode,
    Edge,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
    Shape,
)


def spiking_graph(
    input_shape: Shape,
    layers: Mapping[str, SpikingLayer],
    readout_weights: Mapping[str, Tensor],
    readout_bias: Tensor,
) -> LayerGraph:
    """Layer graph of a chain of spiking layers with a readout of some of them.

    input_shape: of a frame. readout_weights: `[K, neurons]` by layer. readout_bias: `[K]`.

    Neuron nodes have the names of their layers. The synapses of port p of layer l are named `l/p`,
    those from l to the readout `readout/l`, and the flattened map of l, where needed, `l/flat`.
    ExportError for neurons without an integer form.
    """
    nodes: dict[str, LayerNode] = {"input": InputNode(input_shape)}
    edges: list[Edge] = []

    def as_row(source: str) -> str:
        # a Flatten node is shared by all dense nodes behind a map
        shape = nodes[source].output_shape
        if len(shape) == 1:
            return source
        flat = f"{source}/flat"
        if flat not in nodes:
            nodes[flat] = FlattenNode(shape)
            edges.append(Edge(source, flat))
        return flat

    source = "input"
    for name, layer in layers.items():
        for port, synapse in layer.synapses.items():
            node = _synapse(synapse, nodes[source].output_shape)
            origin = as_row(source) if isinstance(node, DenseNode) else source
            nodes[f"{name}/{port}"] = node
            edges += [Edge(origin, f"{name}/{port}"), Edge(f"{name}/{port}", name, port)]
        nodes[name] = _neurons(name, layer)
        source = name
    for name, weight in readout_weights.items():
        origin = as_row(name)
        nodes[f"readout/{name}"] = DenseNode(_array(weight))
        edges += [Edge(origin, f"readout/{name}"), Edge(f"readout/{name}", "readout")]
    nodes["readout"] = ReadoutNode(_array(readout_bias))
    return LayerGraph(nodes, tuple(edges))


def _synapse(synapse: AnySynapse, input_shape: Shape) -> Conv2dNode | DenseNode:
    plain, weight = weight_in_use(synapse)
    if not isinstance(plain, nn.Conv2d):
        assert weight.shape[1] == prod(input_shape)
        return DenseNode(_array(weight))
    stride, padding = plain.stride, plain.padding
    return Conv2dNode(
        input_shape,
        _array(weight),
        (int(stride[0]), int(stride[1])),
        (int(padding[0]), int(padding[1])),
    )


def _neurons(name: str, layer: SpikingLayer) -> LayerNode:
    if layer.is_recurrent:
        raise ExportError(f"layer '{name}' is recurrent, which cannot be mapped; recurrent=false.")
    threshold = float(layer.threshold)
    if isinstance(layer, LIFLayer):
        return LIFNode(layer.shape, layer.neuron.tau_ms, threshold, layer.neuron.reset)
    if isinstance(layer, DualTimescaleLayer):
        neuron = layer.neuron
        # gamma is exported as a constant: gates do not change in evaluation
        gamma = _array(layer.gate.gamma()) if neuron.merge == "gate" else None
        taus = neuron.tau_fast_ms, neuron.tau_slow_ms
        return DualLIFNode(layer.shape, *taus, threshold, gamma, neuron.merge, neuron.reset)
    raise ExportError(
        f"layer '{name}' ({type(layer).__name__}) cannot be mapped: only LIF and dual-timescale "
        "LIF neurons have an integer form."
    )


def _array(tensor: Tensor) -> Array:
    # a copy, so that further training does not change the graph
    return tensor.detach().cpu().float().numpy().astype(np.float32, copy=True)
