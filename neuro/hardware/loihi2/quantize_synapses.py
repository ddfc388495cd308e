"""Quantization of the synapses of a layer graph; neurons and readout follow in `quantize.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from neuro.errors import ExportError
from neuro.hardware.loihi2.integer import INPUT, Integers, IntegerSynapse
from neuro.hardware.loihi2.integer_layers import WEIGHT_EXPONENTS
from neuro.hardware.loihi2.rounding import SynapseLoss
from neuro.models.graph import (
    Array,
    Conv2dNode,
    DenseNode,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    ReadoutNode,
)
from neuro.ops.fixed_point import FixedPoint, clipped_weights, layer_scale, weight_integers


class SynapseQuantizer:
    """Quantizes synapses on the way to a layer, and collects rounded nodes and errors."""

    def __init__(self, graph: LayerGraph, dt_ms: float, fixed: FixedPoint):
        self.graph = graph
        self.dt_ms = dt_ms
        self.fixed = fixed
        self.rounded: dict[str, LayerNode] = dict(graph.nodes)
        self.synapses: list[SynapseLoss] = []
        self.input = self.only(InputNode, "input")
        source = graph.nodes[self.input]
        assert isinstance(source, InputNode)
        self.coding = source.coding
        self.unit = fixed.input_unit if self.coding == "real" else 1  # the integer of 1.0

    def only(self, kind: type[LayerNode], what: str) -> str:
        """Name of the only node of a kind. ExportError unless there is exactly one."""
        names = [name for name, node in self.graph.nodes.items() if isinstance(node, kind)]
        if len(names) != 1:
            raise ExportError(
                f"a network on the chip has one {what}; this graph has "
                f"{len(names)} ({', '.join(names) or 'none'})."
            )
        return names[0]

    def compartments(
        self, name: str, node: LayerNode, threshold: float
    ) -> tuple[list[IntegerSynapse], list[IntegerSynapse], int, Array | None]:
        """Integer synapses of a layer, its vth, and its bias in integer units of v.

        The synapses are those of each port from other layers, and those from the layer to itself.
        """
        sources, own = [], []
        for port in node.ports:
            found = self.graph.sources(name, port)
            recurrent = [s for s in found if self.graph.is_recurrent(s)]
            others = [s for s in found if s not in recurrent]
            if len(others) != 1 or len(recurrent) > 1:
                raise ExportError(
                    f"layer '{name}': {len(found)} synapses into '{port}' ({', '.join(found)}); "
                    "the chip's neurons take one per compartment, and one from themselves."
                )
            sources += others
            own += recurrent
        given = [self.synapse_node(source, name) for source in (*sources, *own)]
        graded = {self._is_graded(source) for source in sources}
        # Inputs and spikes have different units, and compartments share a scale.
        if len(graded) > 1:
            raise ExportError(
                f"layer '{name}': one compartment sees the input and another does not; they could "
                "not share a scale."
            )
        unit = self.unit if graded == {True} else 1
        weights = [torch.from_numpy(synapse.weight) for synapse in given]
        scale = layer_scale(
            weights, torch.tensor(threshold), bits=self.fixed.weight_bits, unit=unit
        )
        step = float(scale.step)
        bias = next((synapse.bias for synapse in given if synapse.bias is not None), None)
        if bias is not None:
            bias = bias * (64 * unit / step)  # see `ops/fixed_point.py` for the integers of v
        # A spike counts as an input of 1.0, which is `unit`, a power of two.
        exponent = unit.bit_length() - 1
        if own and exponent > WEIGHT_EXPONENTS[1]:
            bits = self.fixed.input_bits - exponent + WEIGHT_EXPONENTS[1]
            raise ExportError(
                f"layer '{name}': its recurrent weights need the exponent {exponent} beside inputs "
                f"of {self.fixed.input_bits} bits; the chip's go up to {WEIGHT_EXPONENTS[1]}. Use "
                f"hardware.input_bits={bits}, or inputs that are spikes."
            )
        return (
            [self.integer_synapse(source, step) for source in sources],
            [replace(self.integer_synapse(source, step), exponent=exponent) for source in own],
            int(scale.vth),
            bias,
        )

    def _is_graded(self, synapse: str) -> bool:
        """Whether a synapse receives integers that are not spikes."""
        return self._origin(synapse) == self.input and self.coding != "spikes"

    def integer_synapse(self, source: str, step: float) -> IntegerSynapse:
        """Quantize a synapse node with a given step, and record its errors."""
        node = self.graph.nodes[source]
        assert isinstance(node, (Conv2dNode, DenseNode))
        weight = torch.from_numpy(node.weight)
        exact_step = torch.tensor(step, dtype=torch.float64)
        integers = weight_integers(weight, exact_step, self.fixed.weight_bits)
        rounded = (integers * step).numpy()
        norm = float(np.linalg.norm(node.weight))
        deviation = float(np.linalg.norm(rounded - node.weight))
        self.synapses.append(
            SynapseLoss(
                source,
                (float(node.weight.min()), float(node.weight.max())),
                step,
                (int(integers.min()), int(integers.max())),
                clipped_weights(weight, exact_step, self.fixed.weight_bits),
                deviation / norm if norm > 0 else 0.0,
            )
        )
        self.rounded[source] = replace(node, weight=rounded.astype(np.float32))
        origin = self._origin(source)
        stored: Integers = integers.numpy().astype(np.int32)
        graded = self._is_graded(source)
        name = INPUT if origin == self.input else origin
        if isinstance(node, Conv2dNode):
            return IntegerSynapse(name, stored, node.stride, node.padding, graded)
        delays = None
        if node.delays_ms is not None:
            delays = np.rint(node.delays_ms / self.dt_ms).astype(np.int32)
        return IntegerSynapse(name, stored, graded=graded, delays=delays)

    def synapse_node(self, source: str, target: str) -> Conv2dNode | DenseNode:
        """The synapse node before a layer. ExportError for a node of another kind."""
        node = self.graph.nodes[source]
        if not isinstance(node, (Conv2dNode, DenseNode)):
            raise ExportError(
                f"layer '{target}': '{source}' reaches it without a synapse; put a convolution or "
                "a dense layer between them."
            )
        return node

    def _origin(self, synapse: str) -> str:
        """Name of the neurons, or the input, that feed a synapse node."""
        (source, *more) = self.graph.sources(synapse)
        if more:
            names = ", ".join((source, *more))
            raise ExportError(
                f"synapse '{synapse}': it has several sources ({names}); use a synapse for each."
            )
        # a Flatten node changes no order: synapses store the flattened weights
        while isinstance(self.graph.nodes[source], FlattenNode):
            (source,) = self.graph.sources(source)
        if isinstance(self.graph.nodes[source], (Conv2dNode, DenseNode, ReadoutNode)):
            raise ExportError(f"synapse '{synapse}': it follows '{source}', which does not spike.")
        return source
