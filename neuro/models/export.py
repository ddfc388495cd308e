"""Export of spiking layers and a readout as a layer graph for hardware targets."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from torch import Tensor, nn

from neuro.data.base import InputSpec
from neuro.errors import ExportError
from neuro.layers.adaptive import CurrentBasedNeuron, LearnedLIFNeuron
from neuro.layers.delays import SynapticDelays
from neuro.layers.dual_timescale import DualTimescaleLayer
from neuro.layers.lif import LIFLayer, LIFNeuron
from neuro.layers.spiking import SpikingLayer
from neuro.layers.synapse import AnySynapse, weight_in_use
from neuro.layers.two_variable import TwoVariableLayer
from neuro.models.graph import (
    Array,
    Conv2dNode,
    CubaLIFNode,
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
    inputs: InputSpec,
    layers: Mapping[str, SpikingLayer],
    readout_weights: Mapping[str, Tensor],
    readout_bias: Tensor,
    delays_ms: Mapping[str, Tensor | None],
    *,
    readout_tau_ms: float | None = None,
) -> LayerGraph:
    """Layer graph of a chain of spiking layers with a readout of some of them.

    readout_weights: `[K, neurons]` by layer. readout_bias: `[K]`. delays_ms: of each input channel
    of a layer `[C]`, by layer. readout_tau_ms: of a leaky readout.

    Neuron nodes have the names of their layers. The synapses of port p of layer l are named `l/p`,
    those from l to itself `l/recurrent` or `l/p_recurrent`, those from l to the readout
    `readout/l`, and the flattened map of l, where needed, `l/flat`.
    ExportError for neurons without an integer form.
    """
    nodes: dict[str, LayerNode] = {"input": InputNode(tuple(inputs.shape), inputs.coding)}
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
            node = _synapse(synapse, nodes[source].output_shape, delays_ms.get(name))
            origin = as_row(source) if isinstance(node, DenseNode) else source
            nodes[f"{name}/{port}"] = node
            edges += [Edge(origin, f"{name}/{port}"), Edge(f"{name}/{port}", name, port)]
        for port, recurrent in layer.recurrent_synapses.items():
            own = f"{name}/recurrent" if len(layer.synapses) == 1 else f"{name}/{port}_recurrent"
            nodes[own] = DenseNode(_array(recurrent.weight))
            edges += [Edge(name, own, recurrent=True), Edge(own, name, port)]
        nodes[name] = _neurons(name, layer)
        source = name
    for name, weight in readout_weights.items():
        origin = as_row(name)
        nodes[f"readout/{name}"] = DenseNode(_array(weight))
        edges += [Edge(origin, f"readout/{name}"), Edge(f"readout/{name}", "readout")]
    nodes["readout"] = ReadoutNode(_array(readout_bias), readout_tau_ms)
    return LayerGraph(nodes, tuple(edges))


def _synapse(
    synapse: AnySynapse, input_shape: Shape, delays_ms: Tensor | None
) -> Conv2dNode | DenseNode:
    plain, weight = weight_in_use(synapse)
    if not isinstance(plain, nn.Conv2d):
        assert weight.shape[1] == prod(input_shape)
        if isinstance(synapse, SynapticDelays):
            delays_ms = synapse.delays_ms()
        delays = None if delays_ms is None else _array(delays_ms)
        return DenseNode(_array(weight), delays_ms=delays)
    stride, padding = plain.stride, plain.padding
    return Conv2dNode(
        input_shape,
        _array(weight),
        (int(stride[0]), int(stride[1])),
        (int(padding[0]), int(padding[1])),
    )


def _neurons(name: str, layer: SpikingLayer) -> LayerNode:
    threshold = float(layer.threshold)
    if isinstance(layer, DualTimescaleLayer):
        dual = layer.neuron
        # gamma is exported as a constant: gates do not change in evaluation
        gamma = _array(layer.gate.gamma()) if dual.merge == "gate" else None
        taus = dual.tau_fast_ms, dual.tau_slow_ms
        return DualLIFNode(layer.shape, *taus, threshold, gamma, dual.merge, dual.reset)
    if isinstance(layer, LIFLayer | TwoVariableLayer):
        neuron = layer.neuron
        values = layer.values() if isinstance(layer, TwoVariableLayer) else {}
        match neuron:
            case LIFNeuron():
                return LIFNode(layer.shape, neuron.tau_ms, threshold, neuron.reset)
            case LearnedLIFNeuron():
                return LIFNode(layer.shape, _array(values["tau_ms"]), threshold, neuron.reset)
            case CurrentBasedNeuron():
                decays = _array(values["tau_current_ms"]), _array(values["tau_ms"])
                return CubaLIFNode(layer.shape, *decays, threshold, neuron.reset)
    kind = type(getattr(layer, "neuron", layer)).__name__
    raise ExportError(
        f"layer '{name}': {kind} cannot be mapped to the chip, whose neurons have a current and a "
        "membrane potential but no adaptation. Use model/neuron=cuba, plif, lif or dual_timescale, "
        "or hardware=auto."
    )


def _array(tensor: Tensor) -> Array:
    # a copy, so that further training does not change the graph
    return tensor.detach().cpu().float().numpy().astype(np.float32, copy=True)
