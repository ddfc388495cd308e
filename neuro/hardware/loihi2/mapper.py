"""Mapping of an integer network onto neuro cores of Loihi 2, with a check of capacities.

Lava's simulator has no cores, and Intel's compiler is not public, so this is a model of the
mapping. It counts for each core:

- **Neurons**: one compartment per LIF neuron, two per dual-timescale neuron, one per accumulator
  of the readout. Frames enter as graded spikes from the host and take no core.
- **Synapse words**: an input of a core has one list of weights there, which starts at a word of
  64 bits. A dense list holds a weight of 8 bits and an index of 8 bits for each neuron of the
  core, zero or not, and a delay of 6 bits if the synapse has delays; neurons of a recurrent layer
  are inputs of their own layer. A convolution's
  lists (one for each input channel and place in the kernel) hold the 8-bit weights of the core's
  output channels once, whatever the size of the map.
- **Bytes**: the synapse words, current and membrane potential of 24 bits for each compartment (an
  accumulator has one state), 2 bytes of bias for each neuron that has one, of gamma for each gated
  neuron, and of each decay that differs between neurons, and 16 bits for each step of the longest
  delay of a compartment, in which sums wait. Axon tables are not included: their
  widths are not published.

Measured against Intel's table for PilotNet (LIF, the cores behind its input layer; lava-dl,
tutorials/lava/lib/dl/netx/pilotnet_snn/benchmark.ipynb, from which word and index widths are
inferred): the four dense layers need the words that Intel reports; the five convolutions need 0,
25, 20, 60 and 60 % more, because Intel's compiler stores a layer with fewer than 8 bits where its
weights allow it. Cores are a **lower bound**: 27 against Intel's 61, because Intel's compiler
halves layers and strips until they fit and never put more than 3,168 neurons on a core. With that
as the limit, 49 against 61.

A layer is split into ranges of its flattened neurons, over as few cores as possible and evenly
where that fits. A map is flattened channel by channel, so that a core stores few channels of the
kernel. The readout is split by its inputs, because the host adds up its accumulators anyway.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from neuro.errors import ExportError
from neuro.hardware.loihi2.core_map import Axons, Core, CoreMap, LayerMap
from neuro.hardware.loihi2.counts import READOUT
from neuro.hardware.loihi2.integer import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    DECAY_BITS,
    GAMMA_UNITY,
    STATE_BITS,
    IntegerDualLIF,
    IntegerLayer,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.hardware.loihi2.limits import ChipLimits, check_weights
from neuro.models.graph import Shape

# Registers take whole bytes; that of a bias includes its exponent.
BIAS_BYTES = ceil((BIAS_MANTISSA_BITS + BIAS_EXPONENT_BITS) / 8)
GAMMA_BYTES = ceil(GAMMA_UNITY.bit_length() / 8)
DECAY_BYTES = ceil(DECAY_BITS / 8)


class _Need(NamedTuple):
    """Resources of a core that a range of a layer's neurons needs."""

    first: int
    stop: int
    compartments: int
    synapses: int
    synapse_words: int
    memory_bytes: int
    axons: tuple[Axons, ...]


def map_network(network: IntegerNetwork, limits: ChipLimits | None = None) -> CoreMap:
    """Map a network onto cores.

    limits: of the chip; None is Loihi 2's. ExportError for weights that the chip cannot store, a
    neuron that is too large for a core, and more cores than the chips have; it names the layer.
    """
    limits = limits or ChipLimits()
    if network.input_bits > limits.graded_spike_bits:
        raise ExportError(
            f"input: frames of {network.input_bits} bits; graded spikes have at most "
            f"{limits.graded_spike_bits}. Use fewer input bits."
        )
    sizes = {"input": prod(network.input_shape)}
    layers: list[LayerMap] = []
    index = 0
    for layer in (*network.layers, network.readout):
        name = _name(layer)
        if not isinstance(layer, IntegerReadout):
            sizes[name] = prod(layer.shape)  # before its demand, as it may be a source of its own
        demand = _Demand(layer, sizes, limits)
        for synapse in _synapses(layer):
            check_weights(name, synapse, limits)
        cores = tuple(
            _core(index + i, name, demand.of(first, stop), limits)
            for i, (first, stop) in enumerate(demand.partition())
        )
        index += len(cores)
        largest = max(_largest_sum(own, network.input_bits) for own in _compartments(layer))
        convolution = all(s.is_convolution for s in layer.synapses)
        layers.append(
            LayerMap(
                name=name,
                connection="convolution" if convolution else "dense",
                neurons=sum(core.neurons for core in cores),
                compartments=sum(core.compartments for core in cores),
                largest_sum=largest,
                cores=cores,
            )
        )
    if index > limits.chips * limits.cores_per_chip:
        taken = ", ".join(f"'{m.name}' {len(m.cores)}" for m in layers)
        largest_layer = max(layers, key=lambda m: len(m.cores))
        raise ExportError(
            f"layer '{largest_layer.name}': the network needs {index:,} cores ({taken}); "
            f"chips={limits.chips} has {limits.chips * limits.cores_per_chip:,}. Use "
            f"chips={ceil(index / limits.cores_per_chip)} or make '{largest_layer.name}' smaller."
        )
    depths = network.depths()
    pipeline_steps = 1 + max(depths[s.source] for s in network.readout.synapses)
    return CoreMap(limits, tuple(layers), pipeline_steps)


class _Demand:
    """Resources that ranges of a layer need, and the ranges that fit a core."""

    def __init__(
        self, layer: IntegerLayer | IntegerReadout, sizes: dict[str, int], limits: ChipLimits
    ):
        self.layer, self.limits = layer, limits
        self.sizes = sizes
        self.of: Callable[[int, int], _Need]
        if isinstance(layer, IntegerReadout):
            self.of = self._readout_need
            self.units = sum(s.weight.shape[1] for s in layer.synapses)
        else:
            self.of = self._layer_need
            self.units = prod(layer.shape)

    def partition(self) -> list[tuple[int, int]]:
        """Split the layer into as few ranges as possible, of even size where that fits.

        ExportError if a single neuron (or input of the readout) does not fit a core.
        """
        self._check_unit()
        ranges, first = [], 0
        while first < self.units:
            # All subranges of a range that fits fit too, so the longest is found by bisection.
            stops = range(first + 1, self.units + 1)
            stop = first + bisect_left(stops, True, key=lambda stop: not self._fits(first, stop))
            ranges.append((first, stop))
            first = stop
        cuts = [self.units * i // len(ranges) for i in range(len(ranges) + 1)]
        even = list(pairwise(cuts))
        return even if all(self._fits(*r) for r in even) else ranges

    def _fits(self, first: int, stop: int) -> bool:
        return not self._excess(self.of(first, stop))

    def _excess(self, need: _Need) -> list[tuple[str, int, int]]:
        """Limits that are exceeded: name of the resource, amount needed, amount per core."""
        limits = self.limits
        return [
            (what, needed, held)
            for what, needed, held in (
                ("synapse words", need.synapse_words, limits.synapse_words_per_core),
                ("bytes of memory", need.memory_bytes, limits.core_memory_bytes),
                ("compartments", need.compartments, limits.neurons_per_core),
            )
            if needed > held
        ]

    def _layer_need(self, first: int, stop: int) -> _Need:
        layer, limits = self.layer, self.limits
        assert not isinstance(layer, IntegerReadout)
        synapses = _synapses(layer)
        stored = [_storage(s, layer.shape, first, stop, limits) for s in synapses]
        words = sum(w for _, w in stored)
        neurons = stop - first
        # every compartment has a current and a membrane potential
        state_bytes = neurons * len(layer.synapses) * ceil(2 * STATE_BITS / 8)
        if isinstance(layer, IntegerDualLIF):
            state_bytes += neurons * GAMMA_BYTES * (layer.gamma is not None)
        else:
            state_bytes += neurons * BIAS_BYTES * (layer.bias_mantissa is not None)
            own = sum(isinstance(decay, np.ndarray) for decay in (layer.du, layer.dv))
            state_bytes += neurons * DECAY_BYTES * own
        waiting = sum(int(s.delays.max()) for s in synapses if s.delays is not None)
        state_bytes += neurons * waiting * ceil(limits.synaptic_sum_bits / 8)
        sources = dict.fromkeys(s.source for s in synapses)
        return _Need(
            first=first,
            stop=stop,
            compartments=neurons * len(layer.synapses),
            synapses=sum(n for n, _ in stored),
            synapse_words=words,
            memory_bytes=words * limits.synapse_word_bits // 8 + state_bytes,
            axons=tuple(Axons(source, 0, self.sizes[source]) for source in sources),
        )

    def _readout_need(self, first: int, stop: int) -> _Need:
        """Resources for a range of the inputs of all source layers, one layer after the other."""
        axons, offset, inputs = [], 0, stop - first
        for synapse in self.layer.synapses:
            size = synapse.weight.shape[1]
            low, high = max(first - offset, 0), min(stop - offset, size)
            if low < high:
                axons.append(Axons(synapse.source, low, high))
            offset += size
        classes = self.layer.synapses[0].weight.shape[0]
        accumulators = classes * len(axons)
        words = inputs * _dense_words(classes, self.limits)
        memory_bytes = words * self.limits.synapse_word_bits // 8
        memory_bytes += accumulators * ceil(STATE_BITS / 8)
        return _Need(
            0, accumulators, accumulators, inputs * classes, words, memory_bytes, tuple(axons)
        )

    def _check_unit(self) -> None:
        excess = self._excess(self.of(0, 1))
        if not excess:
            return
        what, needed, held = excess[0]
        name = _name(self.layer)
        synapses = _synapses(self.layer)
        if isinstance(self.layer, IntegerReadout):
            unit = f"one input of {synapses[0].weight.shape[0]} classes needs"
            advice = "fewer classes"
        elif any(s.is_convolution for s in synapses):
            kernels = " and ".join("x".join(map(str, s.weight.shape[1:])) for s in synapses)
            unit = f"one neuron with its kernel {kernels} needs"
            advice = "fewer input channels or a smaller kernel"
        else:
            inputs = sum(s.weight.shape[1] for s in synapses)
            unit = f"the {inputs:,} synapses of one neuron need"
            advice = "fewer inputs: larger strides or fewer channels before it"
            if len(synapses) > len(self.layer.synapses):
                advice = "fewer neurons, which are inputs of each other, or no recurrence"
        if what == "compartments":
            advice = "neurons with fewer compartments"
        raise ExportError(
            f"layer '{name}': {unit} {needed:,} {what}, a core has {held:,}. Use {advice}."
        )


def _storage(
    synapse: IntegerSynapse, shape: Shape, first: int, stop: int, limits: ChipLimits
) -> tuple[int, int]:
    """Number of weights and of words for the neurons `[first, stop)` of a layer of `shape`."""
    if synapse.is_convolution:
        plane = shape[1] * shape[2]
        # kernels of all output channels of which the range holds at least one neuron
        channels = ceil(stop / plane) - first // plane
        lists = prod(synapse.weight.shape[1:])
        words = ceil(channels * limits.weight_bits / limits.synapse_word_bits)
        return lists * channels, lists * words
    inputs = synapse.weight.shape[1]
    words = _dense_words(stop - first, limits, delayed=synapse.delays is not None)
    return inputs * (stop - first), inputs * words


def _dense_words(neurons: int, limits: ChipLimits, *, delayed: bool = False) -> int:
    """Number of words of the list of one input onto that many neurons."""
    bits = limits.weight_bits + limits.synapse_index_bits + delayed * limits.synapse_delay_bits
    return ceil(neurons * bits / limits.synapse_word_bits)


def _core(index: int, layer: str, need: _Need, limits: ChipLimits) -> Core:
    return Core(
        index=index,
        chip=index // limits.cores_per_chip,
        layer=layer,
        first=need.first,
        stop=need.stop,
        compartments=need.compartments,
        synapses=need.synapses,
        synapse_words=need.synapse_words,
        memory_bytes=need.memory_bytes,
        neuron_utilisation=need.compartments / limits.neurons_per_core,
        synapse_utilisation=need.synapse_words / limits.synapse_words_per_core,
        memory_utilisation=need.memory_bytes / limits.core_memory_bytes,
        axons=need.axons,
    )


def _synapses(layer: IntegerLayer | IntegerReadout) -> tuple[IntegerSynapse, ...]:
    """All synapses onto a layer, those from itself last."""
    if isinstance(layer, IntegerReadout):
        return layer.synapses
    return (*layer.synapses, *layer.recurrent_synapses)


def _compartments(layer: IntegerLayer | IntegerReadout) -> list[tuple[IntegerSynapse, ...]]:
    """The synapses onto each compartment of a neuron."""
    if isinstance(layer, IntegerReadout) or not layer.recurrent_synapses:
        return [(synapse,) for synapse in layer.synapses]
    return list(zip(layer.synapses, layer.recurrent_synapses, strict=True))


def _largest_sum(synapses: tuple[IntegerSynapse, ...], input_bits: int) -> int:
    """The largest |sum| of weights times inputs in one step, over all possible inputs.

    synapses: those onto one compartment.
    """
    # magnitudes of the most negative and the most positive sum of each neuron (or channel)
    below = above = np.zeros(len(synapses[0].weight), np.int64)
    for synapse in synapses:
        weight = synapse.weight.reshape(len(synapse.weight), -1).astype(np.int64)
        positive = np.maximum(weight, 0).sum(1) << synapse.exponent
        negative = np.maximum(-weight, 0).sum(1) << synapse.exponent
        # magnitudes of the most negative and the most positive input
        limit = 1 << (input_bits - 1)
        low, high = (limit, limit - 1) if synapse.graded else (0, 1)
        above = above + positive * high + negative * low
        below = below + positive * low + negative * high
    return int(np.maximum(above, below).max())


def _name(layer: IntegerLayer | IntegerReadout) -> str:
    return READOUT if isinstance(layer, IntegerReadout) else layer.name
