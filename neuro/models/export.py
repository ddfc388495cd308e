"""From spiking layers and a readout to the layer graph that a hardware target maps."""

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
    LIF,
    Array,
    Conv2d,
    Dense,
    DualLIF,
    Edge,
    Flatten,
    Input,
    LayerGraph,
    Node,
    Readout,
    Shape,
)


def spiking_graph(
    input_shape: Shape,
    layers: Mapping[str, SpikingLayer],
    readout_weights: Mapping[str, Tensor],
    readout_bias: Tensor,
) -> LayerGraph:
    """A chain of spiking layers, and the readout that sees some of them.

    Neurons keep their layers' names. The synapses of port p of layer l are `l/p`, those from l to
    the readout `readout/l`; `l/flat` is the map of l as a row where one is needed.
    `readout_weights` are `[K, neurons]`.
    """
    nodes: dict[str, Node] = {"input": Input(input_shape)}
    edges: list[Edge] = []

    def as_row(source: str) -> str:
        shape = nodes[source].output_shape
        if len(shape) == 1:
            return source
        flat = f"{source}/flat"
        if flat not in nodes:
            nodes[flat] = Flatten(shape)
            edges.append(Edge(source, flat))
        return flat

    source = "input"
    for name, layer in layers.items():
        for port, synapse in layer.synapses.items():
            node = _synapse(synapse, nodes[source].output_shape)
            origin = as_row(source) if isinstance(node, Dense) else source
            nodes[f"{name}/{port}"] = node
            edges += [Edge(origin, f"{name}/{port}"), Edge(f"{name}/{port}", name, port)]
        nodes[name] = _neurons(name, layer)
        source = name
    for name, weight in readout_weights.items():
        origin = as_row(name)
        nodes[f"readout/{name}"] = Dense(_array(weight))
        edges += [Edge(origin, f"readout/{name}"), Edge(f"readout/{name}", "readout")]
    nodes["readout"] = Readout(_array(readout_bias))
    return LayerGraph(nodes, tuple(edges))


def _synapse(synapse: AnySynapse, input_shape: Shape) -> Conv2d | Dense:
    plain, weight = weight_in_use(synapse)
    if not isinstance(plain, nn.Conv2d):
        assert weight.shape[1] == prod(input_shape)
        return Dense(_array(weight))
    stride, padding = plain.stride, plain.padding
    return Conv2d(
        input_shape,
        _array(weight),
        (int(stride[0]), int(stride[1])),
        (int(padding[0]), int(padding[1])),
    )


def _neurons(name: str, layer: SpikingLayer) -> Node:
    threshold = float(layer.threshold)
    if isinstance(layer, LIFLayer):
        return LIF(layer.shape, layer.neuron.tau_ms, threshold, layer.neuron.reset)
    if isinstance(layer, DualTimescaleLayer):
        neuron = layer.neuron
        gamma = _array(layer.gate.gamma()) if neuron.merge == "gate" else None
        taus = neuron.tau_fast_ms, neuron.tau_slow_ms
        return DualLIF(layer.shape, *taus, threshold, gamma, neuron.merge, neuron.reset)
    raise ExportError(
        f"layer '{name}' ({type(layer).__name__}) cannot be mapped: only LIF and dual-timescale "
        "LIF neurons have an integer form."
    )


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().float().numpy().astype(np.float32, copy=True)
