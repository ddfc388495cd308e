"""Which neuro cores of Loihi 2 an integer network takes, and what does not fit.

Lava's simulator has no cores, and Intel's compiler is not public, so this is a model of the
mapping. What it counts in a core:

- **Neurons**: one compartment per LIF neuron, two per dual-timescale neuron, one per accumulator
  of the readout. Frames enter as graded spikes from the host and take no core.
- **Synapse words**: an input of a core has one list of weights there, which starts at a word of
  64 bits. A dense list holds a weight of 8 bits and an index of 8 bits for each neuron of the
  core, zero or not; a convolution's lists (one for each input channel and place in the kernel)
  hold the 8-bit weights of the core's output channels once, whatever the size of the map.
- **Bytes**: the synapse words, u and v of 24 bits for each compartment (an accumulator has one
  state), 2 bytes of bias for each neuron that has one, 2 bytes of gamma for each gated neuron.
  Axon tables are left out: their widths are not published.

Measured against Intel's table for PilotNet (LIF, the cores behind its input layer; lava-dl,
tutorials/lava/lib/dl/netx/pilotnet_snn/benchmark.ipynb, from which word and index widths are
inferred): the four dense layers need the words that Intel reports; the five convolutions need 0,
25, 20, 60 and 60 % more, because Intel's compiler stores a layer with fewer than 8 bits where its
weights allow it. Cores are a **lower bound**: 27 against Intel's 61, because Intel's compiler
halves layers and strips until they fit and never put more than 3,168 neurons on a core. With that
as the limit, 49 against 61.

A layer is cut into ranges of its flattened neurons, over as few cores as hold them and evenly
where that fits; a map is flattened channel by channel, so that a core holds few channels of the
kernel. The readout is cut by its inputs: the host adds its accumulators up in any case, so several
cores may each hold some of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from math import ceil, prod
from typing import Any, Literal, NamedTuple

import numpy as np

from neuro.errors import ConfigError, ExportError
from neuro.hardware.counts import READOUT
from neuro.hardware.integer import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    DECAY_BITS,
    GAMMA_UNITY,
    STATE_BITS,
    THRESHOLD_BITS,
    IntegerDualLIF,
    IntegerLayer,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.models.graph import Shape

# whole bytes of a register, the exponent of a bias included
BIAS_BYTES = ceil((BIAS_MANTISSA_BITS + BIAS_EXPONENT_BITS) / 8)
GAMMA_BYTES = ceil(GAMMA_UNITY.bit_length() / 8)

_INTEL = "Intel, Loihi 2 technology brief (2021)"
_PILOTNET = "Intel's mapping of PilotNet, lava-dl, netx/pilotnet_snn/benchmark.ipynb"
_PUBLISHED = "published by the maker"
_INFERRED = "inferred from word counts that the maker published"


def _limit(value: int, source: str, grade: str) -> Any:
    return field(default=value, metadata={"source": source, "grade": grade})


@dataclass(frozen=True)
class ChipLimits:
    """What a chip holds; `provenance` gives the source and the grade of every value.

    neurons_per_core counts compartments. ConfigError for a value below 1.
    """

    chips: int = _limit(1, "this project: the default run asks for one chip", "chosen")
    cores_per_chip: int = _limit(128, _INTEL, f"{_PUBLISHED}; 120 to 128 are reported in use")
    neurons_per_core: int = _limit(8192, _INTEL, _PUBLISHED)
    core_memory_bytes: int = _limit(192 * 1024, _INTEL, _PUBLISHED)
    synapse_words_per_core: int = _limit(12_000, _PILOTNET, "the compiler's limit, in its log")
    synapse_word_bits: int = _limit(64, _PILOTNET, _INFERRED)
    synapse_index_bits: int = _limit(8, _PILOTNET, _INFERRED)
    weight_bits: int = _limit(8, "lava-nc 0.10, Dense", "documented")
    synaptic_sum_bits: int = _limit(16, "lava-nc 0.10, PyLifModelBitAcc", "documented")
    graded_spike_bits: int = _limit(24, "lava-nc 0.10, ports (the chip: 32)", "documented")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Value, source and grade of every limit, as JSON values."""
        return {f.name: {"value": getattr(self, f.name), **f.metadata} for f in fields(self)}


class Axons(NamedTuple):
    """The neurons `[first, stop)` of a source layer (or of "input") that reach a core."""

    source: str
    first: int
    stop: int


@dataclass(frozen=True)
class Core:
    """What one core holds: the neurons `[first, stop)` of a layer, flattened.

    `synapses` are the weights in its memory, so a convolution's kernel counts once. The three
    utilisations are fractions of the core's limits.
    """

    index: int
    chip: int
    layer: str
    first: int
    stop: int
    compartments: int
    synapses: int
    synapse_words: int
    memory_bytes: int
    neuron_utilisation: float
    synapse_utilisation: float
    memory_utilisation: float
    axons: tuple[Axons, ...]

    @property
    def neurons(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class LayerMap:
    """A layer's cores. `largest_sum` bounds |synaptic sum| of a compartment at one step."""

    name: str
    connection: Literal["convolution", "dense"]
    neurons: int
    compartments: int
    largest_sum: int
    cores: tuple[Core, ...]


@dataclass(frozen=True)
class CoreMap:
    """A network on cores, in the order of its layers, the readout last.

    `pipeline_steps`: steps by which the readout's sums lag behind the input.
    """

    limits: ChipLimits
    layers: tuple[LayerMap, ...]
    pipeline_steps: int

    @property
    def cores(self) -> tuple[Core, ...]:
        return tuple(core for layer in self.layers for core in layer.cores)

    @property
    def chips(self) -> int:
        return ceil(len(self.cores) / self.limits.cores_per_chip)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Layers whose sums can exceed the chip's accumulator, which Lava does not enforce."""
        bits = self.limits.synaptic_sum_bits
        highest = (1 << (bits - 1)) - 1
        return tuple(
            f"layer '{layer.name}': a synaptic sum can reach {layer.largest_sum:,}, beyond the "
            f"{bits} bits ({highest:,}) of a chip's accumulator; Lava does not enforce them."
            for layer in self.layers
            if layer.largest_sum > highest
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; a core's neurons are `[first, stop)`."""
        return {
            "cores": len(self.cores),
            "chips": self.chips,
            "neurons": sum(layer.neurons for layer in self.layers),
            "synapses": sum(core.synapses for core in self.cores),
            "memory_bytes": sum(core.memory_bytes for core in self.cores),
            "model": "lower bound: on PilotNet 27 cores where Intel's compiler takes 61",
            "warnings": list(self.warnings),
            "limits": self.limits.provenance(),
            "layers": [
                {**asdict(layer), "cores": [_core_json(core) for core in layer.cores]}
                for layer in self.layers
            ],
        }


class _Need(NamedTuple):
    """What a range of a layer's neurons takes in a core."""

    first: int
    stop: int
    compartments: int
    synapses: int
    synapse_words: int
    memory_bytes: int
    axons: tuple[Axons, ...]


def map_network(network: IntegerNetwork, limits: ChipLimits | None = None) -> CoreMap:
    """Put a network on cores.

    ExportError names the first layer that does not fit, the limit, the need and a way out: a
    register outside its bits, a neuron too large for a core, more cores than the chips have.
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
        demand, name = _Demand(layer, sizes, limits), _name(layer)
        _check_registers(layer, limits)
        cores = tuple(
            _core(index + i, name, demand.of(first, stop), limits)
            for i, (first, stop) in enumerate(demand.partition())
        )
        index += len(cores)
        largest = max(_largest_sum(s, network.input_bits) for s in layer.synapses)
        convolution = all(s.is_convolution for s in layer.synapses)
        layers.append(
            LayerMap(
                name, "convolution" if convolution else "dense",
                sum(core.neurons for core in cores), sum(core.compartments for core in cores),
                largest, cores,
            )
        )  # fmt: skip
        if not isinstance(layer, IntegerReadout):
            sizes[layer.name] = prod(layer.shape)
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
    """A layer's demand for cores: what a range takes, and the ranges that fit."""

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
        """As few ranges as fit, of even size where that fits. ExportError if one unit does not."""
        self._check_unit()
        ranges, first = [], 0
        while first < self.units:
            # a range that fits has only subranges that fit, so the longest is found by bisection
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
        """The limits that a need breaks: what, how much is needed, how much there is."""
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
        stored = [_storage(s, layer.shape, first, stop, limits) for s in layer.synapses]
        words = sum(w for _, w in stored)
        neurons = stop - first
        state_bytes = neurons * len(layer.synapses) * ceil(2 * STATE_BITS / 8)
        if isinstance(layer, IntegerDualLIF):
            state_bytes += neurons * GAMMA_BYTES * (layer.gamma is not None)
        else:
            state_bytes += neurons * BIAS_BYTES * (layer.bias_mantissa is not None)
        sources = dict.fromkeys(s.source for s in layer.synapses)
        return _Need(
            first, stop, neurons * len(layer.synapses), sum(n for n, _ in stored), words,
            words * limits.synapse_word_bits // 8 + state_bytes,
            tuple(Axons(source, 0, self.sizes[source]) for source in sources),
        )  # fmt: skip

    def _readout_need(self, first: int, stop: int) -> _Need:
        """A range of the inputs of all groups, one group after the other."""
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
        synapses = self.layer.synapses
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
        if what == "compartments":
            advice = "neurons with fewer compartments"
        raise ExportError(
            f"layer '{name}': {unit} {needed:,} {what}, a core has {held:,}. Use {advice}."
        )


def _storage(
    synapse: IntegerSynapse, shape: Shape, first: int, stop: int, limits: ChipLimits
) -> tuple[int, int]:
    """Weights and words that the neurons `[first, stop)` of a layer of `shape` need."""
    if synapse.is_convolution:
        plane = shape[1] * shape[2]
        channels = ceil(stop / plane) - first // plane
        lists = prod(synapse.weight.shape[1:])
        words = ceil(channels * limits.weight_bits / limits.synapse_word_bits)
        return lists * channels, lists * words
    inputs = synapse.weight.shape[1]
    return inputs * (stop - first), inputs * _dense_words(stop - first, limits)


def _dense_words(neurons: int, limits: ChipLimits) -> int:
    """Words of one input's list onto that many neurons."""
    bits = limits.weight_bits + limits.synapse_index_bits
    return ceil(neurons * bits / limits.synapse_word_bits)


def _core(index: int, layer: str, need: _Need, limits: ChipLimits) -> Core:
    return Core(
        index, index // limits.cores_per_chip, layer, need.first, need.stop, need.compartments,
        need.synapses, need.synapse_words, need.memory_bytes,
        need.compartments / limits.neurons_per_core,
        need.synapse_words / limits.synapse_words_per_core,
        need.memory_bytes / limits.core_memory_bytes,
        need.axons,
    )  # fmt: skip


def _core_json(core: Core) -> dict[str, Any]:
    values = asdict(core)
    del values["layer"]
    return {**values, "neurons": core.neurons, "axons": [list(axons) for axons in core.axons]}


def _largest_sum(synapse: IntegerSynapse, input_bits: int) -> int:
    """The largest |sum| of weights times inputs over all inputs that can arrive in one step."""
    weight = synapse.weight.reshape(len(synapse.weight), -1).astype(np.int64)
    positive = np.maximum(weight, 0).sum(1)
    negative = np.maximum(-weight, 0).sum(1)
    low, high = (1 << (input_bits - 1), (1 << (input_bits - 1)) - 1) if synapse.graded else (0, 1)
    reach = np.maximum(positive * high + negative * low, positive * low + negative * high)
    return int(reach.max())


def _check_registers(layer: IntegerLayer | IntegerReadout, limits: ChipLimits) -> None:
    """ExportError for a value that its register does not hold."""
    for synapse in layer.synapses:
        _check_weights(_name(layer), synapse, limits)
    if isinstance(layer, IntegerReadout):
        return
    decay = (1 << DECAY_BITS) - 1
    values: dict[str, tuple[Any, int, int, str]] = {
        "vth": (layer.vth, 0, (1 << THRESHOLD_BITS) - 1, "a coarser scale of the weights")
    }
    longer = "a shorter time constant or a longer time step"
    if isinstance(layer, IntegerDualLIF):
        values["dv_fast"] = layer.dv_fast, 0, decay, longer
        values["dv_slow"] = layer.dv_slow, 0, decay, longer
        if layer.gamma is not None:
            values["gamma"] = layer.gamma, 0, GAMMA_UNITY, "a gate between 0 and 1"
    else:
        values["du"] = layer.du, 0, decay, longer
        values["dv"] = layer.dv, 0, decay, longer
        if layer.bias_mantissa is not None:
            mantissa = 1 << (BIAS_MANTISSA_BITS - 1)
            larger = "a larger bias_exponent or a smaller bias"
            values["bias_mantissa"] = layer.bias_mantissa, -mantissa, mantissa - 1, larger
            exponent = (1 << BIAS_EXPONENT_BITS) - 1
            values["bias_exponent"] = layer.bias_exponent, 0, exponent, "a smaller bias"
    for register, (value, low, high, advice) in values.items():
        if np.min(value) < low or np.max(value) > high:
            worst = np.min(value) if np.min(value) < low else np.max(value)
            raise ExportError(
                f"layer '{layer.name}': {register} is {int(worst):,}; its register holds {low:,} "
                f"to {high:,}. Use {advice}."
            )


def _check_weights(name: str, synapse: IntegerSynapse, limits: ChipLimits) -> None:
    """Lava's rule: one sign keeps all bits of |w|, mixed signs double the range in even steps."""
    unity = 1 << limits.weight_bits
    low, high = int(synapse.weight.min()), int(synapse.weight.max())
    mixed = low < 0 < high
    lowest, highest = (-unity, unity - 1) if mixed else (1 - unity, unity - 1)
    if low < lowest or high > highest:
        raise ExportError(
            f"layer '{name}': weights from '{synapse.source}' span {low:,} to {high:,}; "
            f"{limits.weight_bits} bits hold {lowest:,} to {highest:,}. Use a finer weight scale."
        )
    if mixed and (synapse.weight & 1).any():
        raise ExportError(
            f"layer '{name}': weights from '{synapse.source}' have both signs and are odd; "
            f"{limits.weight_bits} bits of mixed sign hold even weights. Round them to even ones."
        )


def _name(layer: IntegerLayer | IntegerReadout) -> str:
    return READOUT if isinstance(layer, IntegerReadout) else layer.name
