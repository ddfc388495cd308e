"""Quantization of a layer graph to the chip's integers, with the errors that it causes.

Every spiking layer has one scale (`ops/fixed_point.layer_scale`), shared by the synapses of its
compartments, in which its threshold is exact. Readout synapses have a scale for each source layer,
because the host adds their sums. Decay registers depend on the time step of the data, so a network
is quantized once for each time step; weights and thresholds are the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from neuro.errors import ExportError
from neuro.hardware.loihi2.integer import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    IntegerDualLIF,
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    Integers,
    IntegerSynapse,
)
from neuro.models.graph import (
    Array,
    Conv2dNode,
    DenseNode,
    DualLIFNode,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
)
from neuro.ops.fixed_point import (
    DECAY_UNITY,
    GAMMA_UNITY,
    FixedPoint,
    clipped_weights,
    decay_register,
    gamma_register,
    layer_scale,
    synapse_step,
    weight_integers,
)


@dataclass(frozen=True)
class SynapseLoss:
    """Quantization errors of the weights of one synapse node."""

    name: str
    range: tuple[float, float]  # smallest and largest weight
    step: float  # the real value of weight 1
    integers: tuple[int, int]  # smallest and largest
    clipped: int  # number of weights beyond the largest integer
    error: float  # ||w - rounded w|| / ||w||


@dataclass(frozen=True)
class NeuronLoss:
    """Quantization errors of the constants of one layer; its threshold is exact."""

    name: str
    threshold: float
    vth: int
    decays: tuple[float, ...]  # factors kept per step, by the registers
    decay_error: float  # largest deviation from exp(-dt / tau)
    gamma_error: float  # largest deviation of gamma
    bias_error: float  # largest deviation of a bias, as a fraction of the threshold


class Quantized(NamedTuple):
    """An integer network, and a layer graph with the real values of its parameters.

    `rounded` differs from the original graph by the rounding of parameters, and from the integer
    network by its floating-point arithmetic.
    """

    network: IntegerNetwork
    rounded: LayerGraph
    synapses: tuple[SynapseLoss, ...]
    neurons: tuple[NeuronLoss, ...]


def quantize_graph(graph: LayerGraph, dt_ms: float, fixed: FixedPoint) -> Quantized:
    """Quantize a layer graph for data of time step `dt_ms`, with the widths `fixed`.

    ExportError for graphs that the chip cannot represent: several inputs or readouts, several
    synapses into one compartment, neurons without synapses, a bias out of range.
    """
    return _Quantizer(graph, dt_ms, fixed).run()


class _Quantizer:
    """Quantizes the nodes in the order of computation, and collects integers and errors."""

    def __init__(self, graph: LayerGraph, dt_ms: float, fixed: FixedPoint):
        self.graph = graph
        self.dt_ms = dt_ms
        self.fixed = fixed
        self.rounded: dict[str, LayerNode] = dict(graph.nodes)
        self.synapses: list[SynapseLoss] = []
        self.neurons: list[NeuronLoss] = []
        self.input = self._only(InputNode, "input")
        self.readout = self._only(ReadoutNode, "readout")

    def run(self) -> Quantized:
        layers: list[IntegerLayer] = []
        for name, node in self.graph.nodes.items():
            if isinstance(node, LIFNode):
                layers.append(self._lif(name, node))
            elif isinstance(node, DualLIFNode):
                layers.append(self._dual_lif(name, node))
            elif not isinstance(node, (InputNode, Conv2dNode, DenseNode, FlattenNode, ReadoutNode)):
                raise ExportError(
                    f"layer '{name}': {type(node).__name__} has no integer form. Loihi 2 targets "
                    "take convolutions, dense layers, LIF and dual-timescale LIF neurons."
                )
        source = self.graph.nodes[self.input]
        network = IntegerNetwork(
            source.output_shape,
            self.fixed.input_bits,
            self.fixed.input_unit,
            self.dt_ms,
            tuple(layers),
            self._readout(),
        )
        rounded = LayerGraph(self.rounded, self.graph.edges)
        return Quantized(network, rounded, tuple(self.synapses), tuple(self.neurons))

    def _only(self, kind: type[LayerNode], what: str) -> str:
        """Name of the only node of a kind. ExportError unless there is exactly one."""
        names = [name for name, node in self.graph.nodes.items() if isinstance(node, kind)]
        if len(names) != 1:
            raise ExportError(
                f"a network on the chip has one {what}; this graph has "
                f"{len(names)} ({', '.join(names) or 'none'})."
            )
        return names[0]

    def _lif(self, name: str, node: LIFNode) -> IntegerLIF:
        (synapse,), vth, bias = self._compartments(name, node, node.threshold)
        dv = decay_register(node.tau_ms, self.dt_ms)
        mantissa, exponent, bias_error = self._bias(name, bias, vth)
        self._record(name, node.threshold, vth, (dv,), (node.tau_ms,), bias_error=bias_error)
        # the time constant for which the float decay is that of the register
        self.rounded[name] = replace(node, tau_ms=_tau_ms(dv, self.dt_ms))
        return IntegerLIF(
            name,
            node.shape,
            synapse,
            dv,
            vth,
            node.reset,
            bias_mantissa=mantissa,
            bias_exponent=exponent,
        )

    def _dual_lif(self, name: str, node: DualLIFNode) -> IntegerDualLIF:
        (fast, slow), vth, bias = self._compartments(name, node, node.threshold)
        if bias is not None:
            raise ExportError(f"layer '{name}': dual-timescale neurons take no bias on the chip.")
        taus = node.tau_fast_ms, node.tau_slow_ms
        dv_fast, dv_slow = (decay_register(tau, self.dt_ms) for tau in taus)
        gamma, rounded_gamma, gamma_error = None, None, 0.0
        if node.gamma is not None:
            gamma = gamma_register(torch.from_numpy(node.gamma)).numpy().astype(np.int32)
            rounded_gamma = (gamma / GAMMA_UNITY).astype(np.float32)
            gamma_error = float(np.abs(rounded_gamma - node.gamma).max())
        self._record(name, node.threshold, vth, (dv_fast, dv_slow), taus, gamma_error=gamma_error)
        self.rounded[name] = replace(
            node,
            tau_fast_ms=_tau_ms(dv_fast, self.dt_ms),
            tau_slow_ms=_tau_ms(dv_slow, self.dt_ms),
            gamma=rounded_gamma,
        )
        return IntegerDualLIF(
            name, node.shape, fast, slow, dv_fast, dv_slow, vth, gamma, node.merge, node.reset
        )

    def _readout(self) -> IntegerReadout:
        node = self.graph.nodes[self.readout]
        assert isinstance(node, ReadoutNode)
        synapses, scales = [], []
        for source in self.graph.sources(self.readout):
            synapse = self._synapse_node(source, self.readout)
            step = float(synapse_step(torch.from_numpy(synapse.weight), self.fixed.weight_bits))
            synapses.append(self._synapse(source, step))
            # sums of graded inputs are larger by the integer of an input of 1.0
            scales.append(step / (self.fixed.input_unit if synapses[-1].graded else 1))
        bias = node.bias.astype(np.float64)
        for source in self.graph.sources(self.readout):
            own = self._synapse_node(source, self.readout).bias
            bias = bias if own is None else bias + own
        return IntegerReadout(tuple(synapses), tuple(scales), bias)

    def _compartments(
        self, name: str, node: LayerNode, threshold: float
    ) -> tuple[list[IntegerSynapse], int, Array | None]:
        """Integer synapses of a layer's ports, its vth, and its bias in integer units of v."""
        sources = []
        for port in node.ports:
            found = self.graph.sources(name, port)
            if len(found) > 1:
                raise ExportError(
                    f"layer '{name}': {len(found)} synapses into '{port}' ({', '.join(found)}); "
                    "the chip's neurons take one per compartment."
                )
            sources.append(found[0])
        given = [self._synapse_node(source, name) for source in sources]
        graded = {self._origin(source) == self.input for source in sources}
        # Inputs and spikes have different units, and compartments share a scale.
        if len(graded) > 1:
            raise ExportError(
                f"layer '{name}': one compartment sees the input and another does not; they could "
                "not share a scale."
            )
        unit = self.fixed.input_unit if graded == {True} else 1
        weights = [torch.from_numpy(synapse.weight) for synapse in given]
        scale = layer_scale(
            weights, torch.tensor(threshold), bits=self.fixed.weight_bits, unit=unit
        )
        step = float(scale.step)
        bias = next((synapse.bias for synapse in given if synapse.bias is not None), None)
        if bias is not None:
            bias = bias * (64 * unit / step)  # see `ops/fixed_point.py` for the integers of v
        return [self._synapse(source, step) for source in sources], int(scale.vth), bias

    def _synapse(self, source: str, step: float) -> IntegerSynapse:
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
        graded = origin == self.input
        name = "input" if graded else origin
        if isinstance(node, Conv2dNode):
            return IntegerSynapse(name, stored, node.stride, node.padding, graded)
        return IntegerSynapse(name, stored, graded=graded)

    def _synapse_node(self, source: str, target: str) -> Conv2dNode | DenseNode:
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

    def _bias(self, name: str, bias: Array | None, vth: int) -> tuple[Integers | None, int, float]:
        """Mantissas, exponent and error (a fraction of the threshold) of biases in units of v."""
        if bias is None:
            return None, 0, 0.0
        # the smallest exponent for which the largest bias fits the mantissa: the finest resolution
        largest = (1 << (BIAS_MANTISSA_BITS - 1)) - 1
        exponent = max(0, math.ceil(math.log2(max(float(np.abs(bias).max()), 1.0) / largest)))
        if exponent >= 1 << BIAS_EXPONENT_BITS:
            most = largest << ((1 << BIAS_EXPONENT_BITS) - 1)
            raise ExportError(
                f"layer '{name}': a bias of {np.abs(bias).max():.0f} is larger than the {most} "
                "that 13 bits of mantissa and 3 of exponent hold. Make biases smaller compared "
                "with the threshold."
            )
        mantissa = np.rint(bias / (1 << exponent)).astype(np.int32)
        error = float(np.abs((mantissa << exponent) - bias).max()) / (vth << 6)
        return mantissa, exponent, error

    def _record(
        self,
        name: str,
        threshold: float,
        vth: int,
        registers: Sequence[int],
        taus_ms: Sequence[float],
        *,
        gamma_error: float = 0.0,
        bias_error: float = 0.0,
    ) -> None:
        """Record the quantization errors of a layer's constants."""
        kept = tuple(1 - dv / DECAY_UNITY for dv in registers)
        exact = [math.exp(-self.dt_ms / tau) for tau in taus_ms]
        error = max(abs(a - b) for a, b in zip(kept, exact, strict=True))
        self.neurons.append(NeuronLoss(name, threshold, vth, kept, error, gamma_error, bias_error))


def _tau_ms(dv: int, dt_ms: float) -> float:
    """Time constant of a decay register; inf for 0, which does not decay."""
    return math.inf if dv == 0 else -dt_ms / math.log1p(-dv / DECAY_UNITY)
