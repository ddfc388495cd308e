"""Mapping of an integer network onto neuro cores of Loihi 2, with a check of capacities.

Lava's simulator has no cores, and Intel's compiler is not public, so this is a model of the
mapping. It counts for each core:

- **Neurons**: one compartment per LIF neuron, two per dual-timescale neuron, one per accumulator
  of the readout. Frames enter as graded spikes from the host and take no core.
- **Synapse words**: an input of a core has one list of weights there, which starts at a word of
  64 bits. A dense list holds a weight of 8 bits and an index of 8 bits for each neuron of the
  core, zero or not, and a delay of 6 bits if the synapse has delays; neurons of a recurrent layer
  are inputs of their own layer. A convolution's lists (one for each input channel and place in the
  kernel) hold the 8-bit weights of the core's output channels once, whatever the size of the map.
- **Bytes**: the synapse words, current and membrane potential of 24 bits for each compartment (an
  accumulator has one state), 2 bytes of bias for each neuron that has one, of gamma for each gated
  neuron, and of each decay that differs between neurons, and 16 bits for each step of the longest
  delay of a compartment, in which sums wait. Axon tables are not included: their widths are not
  published.

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

from math import ceil, prod

import numpy as np

from neuro.errors import ExportError
from neuro.hardware.loihi2.core_demand import Demand, Need, name_of, synapses_of
from neuro.hardware.loihi2.core_map import Core, CoreMap, LayerMap
from neuro.hardware.loihi2.integer import (
    IntegerLayer,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.hardware.loihi2.limits import ChipLimits, check_weights


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
        name = name_of(layer)
        if not isinstance(layer, IntegerReadout):
            sizes[name] = prod(layer.shape)  # before its demand, as it may be a source of its own
        demand = Demand(layer, sizes, limits)
        for synapse in synapses_of(layer):
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


def _core(index: int, layer: str, need: Need, limits: ChipLimits) -> Core:
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
