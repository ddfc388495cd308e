"""Quantization of a layer graph to the chip's integers, with the errors that it causes.

Every spiking layer has one scale (`ops/fixed_point.layer_scale`), shared by the synapses of its
compartments, in which its threshold is exact. Readout synapses have a scale for each source layer,
because the host adds their sums. Decay registers depend on the time step of the data, so a network
is quantized once for each time step; weights and thresholds are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from neuro.errors import ExportError
from neuro.hardware.loihi2.integer import (
    MEMORYLESS,
    Decay,
    IntegerDualLIF,
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
)
from neuro.hardware.loihi2.quantize_synapses import SynapseQuantizer
from neuro.hardware.loihi2.rounding import (
    NeuronLoss,
    SynapseLoss,
    bias_registers,
    decay_registers,
    time_constant_ms,
    time_constants_ms,
)
from neuro.models.graph import (
    Conv2dNode,
    CubaLIFNode,
    DenseNode,
    DualLIFNode,
    FlattenNode,
    InputNode,
    LayerGraph,
    LIFNode,
    ReadoutNode,
    TimeConstant,
)
from neuro.ops.fixed_point import (
    DECAY_UNITY,
    GAMMA_UNITY,
    FixedPoint,
    decay_register,
    gamma_register,
    synapse_step,
)

SPIKE_BITS = 2  # of an input that is 0 or 1, with a sign


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


class _Quantizer(SynapseQuantizer):
    """Quantizes the nodes in the order of computation, and collects integers and errors."""

    def __init__(self, graph: LayerGraph, dt_ms: float, fixed: FixedPoint):
        super().__init__(graph, dt_ms, fixed)
        self.neurons: list[NeuronLoss] = []
        self.readout = self.only(ReadoutNode, "readout")

    def run(self) -> Quantized:
        layers: list[IntegerLayer] = []
        for name, node in self.graph.nodes.items():
            if isinstance(node, LIFNode | CubaLIFNode):
                layers.append(self._lif(name, node))
            elif isinstance(node, DualLIFNode):
                layers.append(self._dual_lif(name, node))
            elif not isinstance(node, (InputNode, Conv2dNode, DenseNode, FlattenNode, ReadoutNode)):
                raise ExportError(
                    f"layer '{name}': {type(node).__name__} has no integer form. Loihi 2 targets "
                    "take convolutions, dense layers, LIF, CuBa LIF and dual-timescale LIF neurons."
                )
        source = self.graph.nodes[self.input]
        network = IntegerNetwork(
            source.output_shape,
            SPIKE_BITS if self.coding == "spikes" else self.fixed.input_bits,
            self.unit,
            self.dt_ms,
            tuple(layers),
            self._readout(),
        )
        rounded = LayerGraph(self.rounded, self.graph.edges)
        return Quantized(network, rounded, tuple(self.synapses), tuple(self.neurons))

    def _lif(self, name: str, node: LIFNode | CubaLIFNode) -> IntegerLIF:
        (synapse,), own, vth, bias = self.compartments(name, node, node.threshold)
        dv = decay_registers(node.tau_ms, self.dt_ms)
        mantissa, exponent, bias_error = bias_registers(name, bias, vth)
        losses: list[tuple[Decay, TimeConstant]] = [(dv, node.tau_ms)]
        # rounded time constants are those for which the float decays are the registers'
        tau_ms = time_constants_ms(dv, self.dt_ms)
        du: Decay = MEMORYLESS
        if isinstance(node, CubaLIFNode):
            # the current loses du + 1 parts in 4096
            lost = decay_registers(node.tau_current_ms, self.dt_ms)
            lost = np.maximum(lost, 1) if isinstance(lost, np.ndarray) else max(lost, 1)
            du = lost - 1
            losses.append((lost, node.tau_current_ms))
            tau_current_ms = time_constants_ms(lost, self.dt_ms)
            self.rounded[name] = replace(node, tau_current_ms=tau_current_ms, tau_ms=tau_ms)
        else:
            self.rounded[name] = replace(node, tau_ms=tau_ms)
        self._record(name, node.threshold, vth, losses, bias_error=bias_error)
        return IntegerLIF(
            name,
            node.shape,
            synapse,
            dv,
            vth,
            node.reset,
            du=du,
            bias_mantissa=mantissa,
            bias_exponent=exponent,
            recurrent=own[0] if own else None,
        )

    def _dual_lif(self, name: str, node: DualLIFNode) -> IntegerDualLIF:
        (fast, slow), own, vth, bias = self.compartments(name, node, node.threshold)
        if bias is not None:
            raise ExportError(f"layer '{name}': dual-timescale neurons take no bias on the chip.")
        if len(own) == 1 or (own and node.merge != "gate"):
            raise ExportError(
                f"layer '{name}': recurrent synapses of dual-timescale neurons lead to both "
                "compartments, and need merge=gate."
            )
        taus = node.tau_fast_ms, node.tau_slow_ms
        dv_fast, dv_slow = (decay_register(tau, self.dt_ms) for tau in taus)
        gamma, rounded_gamma, gamma_error = None, None, 0.0
        if node.gamma is not None:
            gamma = gamma_register(torch.from_numpy(node.gamma)).numpy().astype(np.int32)
            rounded_gamma = (gamma / GAMMA_UNITY).astype(np.float32)
            gamma_error = float(np.abs(rounded_gamma - node.gamma).max())
        losses: list[tuple[Decay, TimeConstant]] = list(zip((dv_fast, dv_slow), taus, strict=True))
        self._record(name, node.threshold, vth, losses, gamma_error=gamma_error)
        self.rounded[name] = replace(
            node,
            tau_fast_ms=time_constant_ms(dv_fast, self.dt_ms),
            tau_slow_ms=time_constant_ms(dv_slow, self.dt_ms),
            gamma=rounded_gamma,
        )
        return IntegerDualLIF(
            name,
            node.shape,
            fast,
            slow,
            dv_fast,
            dv_slow,
            vth,
            gamma,
            node.merge,
            node.reset,
            (own[0], own[1]) if own else None,
        )

    def _readout(self) -> IntegerReadout:
        node = self.graph.nodes[self.readout]
        assert isinstance(node, ReadoutNode)
        synapses, scales = [], []
        for source in self.graph.sources(self.readout):
            synapse = self.synapse_node(source, self.readout)
            step = float(synapse_step(torch.from_numpy(synapse.weight), self.fixed.weight_bits))
            synapses.append(self.integer_synapse(source, step))
            # sums of graded inputs are larger by the integer of an input of 1.0
            scales.append(step / (self.unit if synapses[-1].graded else 1))
        dv = None
        if node.tau_ms is not None:
            dv = decay_register(node.tau_ms, self.dt_ms)
            self.rounded[self.readout] = replace(node, tau_ms=time_constant_ms(dv, self.dt_ms))
        bias = node.bias.astype(np.float64)
        for source in self.graph.sources(self.readout):
            own = self.synapse_node(source, self.readout).bias
            bias = bias if own is None else bias + own
        return IntegerReadout(tuple(synapses), tuple(scales), bias, dv)

    def _record(
        self,
        name: str,
        threshold: float,
        vth: int,
        decays: Sequence[tuple[Decay, TimeConstant]],
        *,
        gamma_error: float = 0.0,
        bias_error: float = 0.0,
    ) -> None:
        """Record the quantization errors of a layer's constants; decays with their registers."""
        kept, errors = [], []
        for register, tau_ms in decays:
            factor = 1 - np.asarray(register) / DECAY_UNITY
            errors.append(np.abs(factor - np.exp(-self.dt_ms / np.asarray(tau_ms, float))).max())
            ends = float(factor.min()), float(factor.max())
            kept.append(ends[0] if ends[0] == ends[1] else ends)
        error = float(max(errors))
        self.neurons.append(
            NeuronLoss(name, threshold, vth, tuple(kept), error, gamma_error, bias_error)
        )
