"""Resources of cores that ranges of a layer need; `mapper.py` defines what is counted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from neuro.errors import ExportError
from neuro.hardware.loihi2.core_map import Axons
from neuro.hardware.loihi2.counts import READOUT
from neuro.hardware.loihi2.integer import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    DECAY_BITS,
    GAMMA_UNITY,
    STATE_BITS,
    IntegerDualLIF,
    IntegerLayer,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.hardware.loihi2.limits import ChipLimits
from neuro.models.graph import Shape

# Registers take whole bytes; that of a bias includes its exponent.
BIAS_BYTES = ceil((BIAS_MANTISSA_BITS + BIAS_EXPONENT_BITS) / 8)
GAMMA_BYTES = ceil(GAMMA_UNITY.bit_length() / 8)
DECAY_BYTES = ceil(DECAY_BITS / 8)


class Need(NamedTuple):
    """Resources of a core that a range of a layer's neurons needs."""

    first: int
    stop: int
    compartments: int
    synapses: int
    synapse_words: int
    memory_bytes: int
    axons: tuple[Axons, ...]


class Demand:
    """Resources that ranges of a layer need, and the ranges that fit a core."""

    def __init__(
        self, layer: IntegerLayer | IntegerReadout, sizes: dict[str, int], limits: ChipLimits
    ):
        self.layer, self.limits = layer, limits
        self.sizes = sizes
        self.of: Callable[[int, int], Need]
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

    def _excess(self, need: Need) -> list[tuple[str, int, int]]:
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

    def _layer_need(self, first: int, stop: int) -> Need:
        layer, limits = self.layer, self.limits
        assert not isinstance(layer, IntegerReadout)
        synapses = synapses_of(layer)
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
        return Need(
            first=first,
            stop=stop,
            compartments=neurons * len(layer.synapses),
            synapses=sum(n for n, _ in stored),
            synapse_words=words,
            memory_bytes=words * limits.synapse_word_bits // 8 + state_bytes,
            axons=tuple(Axons(source, 0, self.sizes[source]) for source in sources),
        )

    def _readout_need(self, first: int, stop: int) -> Need:
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
        return Need(
            0, accumulators, accumulators, inputs * classes, words, memory_bytes, tuple(axons)
        )

    def _check_unit(self) -> None:
        excess = self._excess(self.of(0, 1))
        if not excess:
            return
        what, needed, held = excess[0]
        name = name_of(self.layer)
        synapses = synapses_of(self.layer)
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


def synapses_of(layer: IntegerLayer | IntegerReadout) -> tuple[IntegerSynapse, ...]:
    """All synapses onto a layer, those from itself last."""
    if isinstance(layer, IntegerReadout):
        return layer.synapses
    return (*layer.synapses, *layer.recurrent_synapses)


def name_of(layer: IntegerLayer | IntegerReadout) -> str:
    return READOUT if isinstance(layer, IntegerReadout) else layer.name
