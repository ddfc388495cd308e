"""Batched simulation of an integer network, bit-exact with the chip's arithmetic.

Layers run one after the other, each over all steps. Step t of every layer is the response to step t
of the input: the delays of the chip's synapses between layers, one step each, are not simulated.
Those of a layer to itself are: its spikes arrive at the next step. Neurons are those of
`ops/integer_lif.py`, sums those of `ops/integer_synapses.py`. All arithmetic is in integers, so no
result depends on the order of additions, on a library or on the number of threads. Sums of a
constant input are computed once.

Internally spikes are rows `[T, B, H * W * C]` in the order of `layers/layout.py`; inputs and
outputs are `[C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuro.errors import nearest
from neuro.hardware.loihi2.activity import Activity
from neuro.hardware.loihi2.counts import READOUT, LayerTotals
from neuro.hardware.loihi2.integer import (
    ACTIVATION_SHIFT,
    DECAY_UNITY,
    INPUT,
    IntegerLayer,
    IntegerNetwork,
    IntegerReadout,
    Integers,
)
from neuro.hardware.loihi2.integer_neurons import accumulate, simulate
from neuro.hardware.loihi2.synapse_groups import SynapseGroup, columns, synapse_groups
from neuro.layers.layout import to_maps, to_rows
from neuro.models.graph import Shape
from neuro.ops.integer_synapses import event_counts, synaptic_sums

MEMORY_MIB = 32  # default working memory; chunks of samples that fit the cache are faster


@dataclass(frozen=True, eq=False)
class EngineOutput:
    """Results of a batch.

    readout: `[B, T, K]` integers of each source layer, in the order of the readout's synapses;
        `values` converts them to class scores. Zero in padding, as are spikes.
    counts: of every layer in order, the readout last.
    spikes: `[T, B, *shape]` of every layer by name; empty if they were not recorded.
    membranes: `[compartments, T, B, n]` of the chosen neurons by layer, v before the reset; a
        dual-timescale neuron has a fast and a slow one.
    """

    readout: tuple[Integers, ...]
    counts: tuple[LayerTotals, ...]
    spikes: dict[str, NDArray[np.bool_]]
    membranes: dict[str, Integers]


def run(
    network: IntegerNetwork,
    inputs: NDArray[np.integer[Any]],
    *,
    frames: int | None = None,
    lengths: Sequence[int] | None = None,
    record_spikes: bool = False,
    membranes: Mapping[str, Sequence[int] | None] | None = None,
    memory_mib: int = MEMORY_MIB,
) -> EngineOutput:
    """Simulate a batch from zero states.

    inputs: integers `[B, T, *input_shape]`, as returned by `network.encode`.
    frames: number of steps, if the input is one constant frame `[B, 1, ...]`; None is T.
    lengths: steps of each sample, of which the rest is padding and not simulated; None: all have T.
    record_spikes: return the spikes of every layer, a byte per neuron and step.
    membranes: layers whose membrane potentials are returned, with indices of neurons into the
        flattened `[C, H, W]`; None is all.
    memory_mib: limit of working memory, results excluded; it determines how many samples are
        simulated at a time (at least one).

    ValueError for inputs of wrong shape, type or range, and for unknown layers or neurons.
    """
    _check_inputs(network, inputs, frames)
    assert frames is None or lengths is None, "constant frames have one length"
    membranes = membranes or {}
    _check_membranes(network, membranes)
    steps = frames or inputs.shape[1]
    program = _Program(network, membranes)
    output = EngineOutput(
        readout=tuple(
            np.zeros((len(inputs), steps, len(s.weight)), np.int32)
            for s in network.readout.synapses
        ),
        counts=(),
        spikes={
            layer.name: np.zeros((steps, len(inputs), *layer.shape), np.bool_)
            for layer in network.layers
            if record_spikes
        },
        membranes={
            name: np.zeros(
                (len(layer.synapses), steps, len(inputs), len(program.columns[name])), np.int32
            )
            for name, layer in program.layers.items()
            if name in membranes
        },
    )
    parts = []
    own_steps = np.full(len(inputs), steps) if lengths is None else np.asarray(lengths)
    # Samples of one length run together, so that nothing is simulated or counted behind the end.
    for length in np.unique(own_steps).tolist():
        samples = np.flatnonzero(own_steps == length)
        size = program.chunk_size(memory_mib, length, inputs.shape[1])
        for first in range(0, len(samples), size):
            chosen = samples[first : first + size]
            parts.append(program.run(inputs[chosen, :length], length, chosen, output))
    # exact sums of integers, so counts do not depend on the size of chunks
    totals = tuple(reduce(add, layer) for layer in zip(*parts, strict=True))
    return EngineOutput(output.readout, totals, output.spikes, output.membranes)


def values(readout: IntegerReadout, sums: Sequence[Integers]) -> NDArray[np.float64]:
    """Class scores `[..., T, K]` of the integers `[..., T, K]` of all sources and the bias."""
    bias: NDArray[np.float64] = readout.bias
    gain = 1.0
    if readout.dv is not None:
        lost = readout.dv / DECAY_UNITY
        # accumulators hold 64 times the sums; a constant is reached by 1 - d^t
        gain = lost / (1 << ACTIVATION_SHIFT)
        steps = np.arange(1, sums[0].shape[-2] + 1)
        bias = bias * (1 - (1 - lost) ** steps)[:, None]
    scaled = (
        gain * scale * np.asarray(x, np.float64)
        for scale, x in zip(readout.scales, sums, strict=True)
    )
    return reduce(add, scaled, bias)


class _Program:
    """A network with its synapses grouped and packed for a simulation."""

    def __init__(self, network: IntegerNetwork, membranes: Mapping[str, Sequence[int] | None]):
        self.network = network
        self.layers = {layer.name: layer for layer in network.layers}
        shapes: dict[str, Shape] = {INPUT: network.input_shape}
        self.groups: dict[str, list[SynapseGroup]] = {}
        self.recurrent: dict[str, list[SynapseGroup]] = {}
        for layer in network.layers:
            self.groups[layer.name] = synapse_groups(layer.synapses, shapes)
            shapes[layer.name] = layer.shape
            self.recurrent[layer.name] = synapse_groups(layer.recurrent_synapses, shapes)
        self.groups[READOUT] = synapse_groups(network.readout.synapses, shapes)
        self.columns = {
            name: columns(shapes[name])[slice(None) if chosen is None else list(chosen)]
            for name, chosen in membranes.items()
        }

    def chunk_size(self, memory_mib: int, steps: int, input_frames: int) -> int:
        """Number of samples whose spikes, and the sums and membranes of a layer, fit the memory."""
        spikes = sum(prod(layer.shape) for layer in self.network.layers)
        numbers = max(self._numbers(layer, steps, input_frames) for layer in self.network.layers)
        frames = input_frames * prod(self.network.input_shape)
        sample = steps * spikes + 4 * numbers + 5 * frames  # bytes; frames as int32 and uint8
        return max(1, (memory_mib << 20) // sample)

    def _numbers(self, layer: IntegerLayer, steps: int, input_frames: int) -> int:
        """Number of 32-bit integers of a layer per sample: its sums and recorded membranes."""
        frames = sum(input_frames if s.source == INPUT else steps for s in layer.synapses)
        recorded = len(layer.synapses) * steps if layer.name in self.columns else 0
        return prod(layer.shape) * (frames + recorded)

    def run(
        self,
        inputs: NDArray[np.integer[Any]],
        steps: int,
        chosen: NDArray[np.integer[Any]],
        output: EngineOutput,
    ) -> list[LayerTotals]:
        """Simulate samples for some steps, and write results to their rows `chosen` of `output`."""
        frames = torch.from_numpy(inputs.astype(np.int32)).transpose(0, 1)
        activity = Activity(steps, to_rows(frames).contiguous())
        totals = []
        for layer in self.network.layers:
            sums = self._sums(layer.name, activity)
            record = layer.name in self.columns
            spikes, changes, recorded = simulate(layer, sums, self.recurrent[layer.name], record)
            activity.rows[layer.name] = spikes  # kept until the readout, which may read all layers
            totals.append(self._totals(layer.name, activity, int(changes.sum())))
            if record:
                columns = self.columns[layer.name]
                for compartment, v in enumerate(recorded):
                    output.membranes[layer.name][compartment, :steps, chosen] = v.numpy()[
                        ..., columns
                    ].swapaxes(0, 1)
            if output.spikes:
                maps = to_maps(spikes, layer.shape).numpy()
                output.spikes[layer.name][:steps, chosen] = maps
        updates = 0
        for into, sums_TBK in zip(output.readout, self._sums(READOUT, activity), strict=True):
            held, changed = accumulate(sums_TBK, self.network.readout.dv)
            into[chosen, :steps] = held.transpose(0, 1).numpy()
            updates += changed
        totals.append(self._totals(READOUT, activity, updates))
        return totals

    def _sums(self, name: str, activity: Activity) -> list[Tensor]:
        """Sums `[T, B, neurons]` of each synapse, expanded along T if its source is constant."""
        found: dict[int, Tensor] = {}
        for group in self.groups[name]:
            rows = activity.arriving(group)
            sums = synaptic_sums(
                rows.flatten(0, 1), group.packed, graded=group.graded, bits=group.bits
            )
            for member, x in zip(group.members, sums, strict=True):
                x = x.view(*rows.shape[:2], -1).expand(activity.steps, -1, -1)
                found[member] = found[member] + x if member in found else x
        return [found[i] for i in range(len(found))]

    def _totals(self, name: str, activity: Activity, updates: int) -> LayerTotals:
        steps, batch = activity.steps, activity.rows[INPUT].shape[1]
        operations = {True: 0, False: 0}
        for group in self.groups[name]:
            reached = activity.counts(group.source, group.delay)
            reached = (reached if group.columns is None else reached[group.columns]) * group.fan_out
            operations[group.graded] += int(reached.sum())
        recurrent = self.recurrent.get(name, [])
        for group in recurrent:
            # spikes of the last step arrive after the end
            arriving = event_counts(activity.rows[name][:-1].flatten(0, 1))
            operations[False] += int((arriving * group.fan_out).sum())
        dense_operations = sum(g.dense_operations for g in (*self.groups[name], *recurrent))
        sources = {group.source for group in self.groups[name]}
        if name == READOUT:
            neurons, spikes = sum(len(s.weight) for s in self.network.readout.synapses), 0
        else:
            neurons, spikes = prod(self.layers[name].shape), int(activity.counts(name).sum())
        return LayerTotals(
            name=name,
            neurons=neurons,
            inferences=batch,
            steps=batch * steps,
            inputs=sum(int(activity.counts(source).sum()) for source in sources),
            spikes=spikes,
            synaptic_macs=operations[True],
            synaptic_acs=operations[False],
            dense_synaptic_operations=batch * steps * dense_operations,
            neuron_updates=updates,
        )


def _check_inputs(
    network: IntegerNetwork, inputs: NDArray[np.integer[Any]], frames: int | None
) -> None:
    shape = inputs.shape
    if not np.issubdtype(inputs.dtype, np.integer):
        raise ValueError(f"inputs are integers, as network.encode makes them; got {inputs.dtype}.")
    if shape[2:] != network.input_shape or 0 in shape:
        raise ValueError(
            f"inputs must be [B, T, {', '.join(map(str, network.input_shape))}] and not empty; "
            f"got {list(shape)}."
        )
    if frames is not None and (frames < 1 or shape[1] not in (1, frames)):
        raise ValueError(f"frames={frames}, but the inputs have {shape[1]}; only 1 can be held.")
    limit = 1 << (network.input_bits - 1)
    if inputs.min() < -limit or inputs.max() >= limit:
        raise ValueError(
            f"inputs have {network.input_bits} bits, {-limit} .. {limit - 1}; got "
            f"{inputs.min()} .. {inputs.max()}."
        )


def _check_membranes(
    network: IntegerNetwork, membranes: Mapping[str, Sequence[int] | None]
) -> None:
    sizes = {layer.name: prod(layer.shape) for layer in network.layers}
    for name, chosen in membranes.items():
        if name not in sizes:
            raise ValueError(
                f"membranes: there is no layer '{name}'. Layers: {', '.join(sizes)}."
                f"{nearest(name, sizes)}"
            )
        for neuron in chosen or ():
            if not 0 <= neuron < sizes[name]:
                raise ValueError(
                    f"membranes: layer '{name}' has the neurons 0 .. {sizes[name] - 1}; "
                    f"got {neuron}."
                )
