"""An integer network run in batches: every spike of every layer as on the chip, and fast.

Layer by layer over all steps, which a network without recurrence allows. Step t of every layer is
what step t of the input leads to; the delays of the chip's synapses, a step for each, are left out.
Neurons are those of `ops/integer_lif.py`, sums of `ops/integer_synapses.py`: integers only, so no
result depends on the order of additions, on a library or on the number of threads. What holds still
is summed once.

Spikes are rows `[T, B, H * W * C]` here, in the order of `layers/layout.py`, and `[C, H, W]` for
callers.
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
from neuro.hardware.loihi2.connections import Bundle, bundles, columns
from neuro.hardware.loihi2.counts import READOUT, LayerTotals
from neuro.hardware.loihi2.integer import (
    INPUT,
    IntegerDualLIF,
    IntegerLayer,
    IntegerNetwork,
    IntegerReadout,
    Integers,
)
from neuro.layers.layout import spread, to_maps, to_rows
from neuro.models.graph import Shape
from neuro.ops.integer_lif import integer_dual_lif, integer_lif
from neuro.ops.integer_synapses import event_counts, synaptic_sums

MEMORY_MIB = 32  # of working memory; chunks of samples that stay in the cache are faster


@dataclass(frozen=True, eq=False)
class EngineOutput:
    """What a batch gave.

    readout: `[B, T, K]` integers of each source layer, in the order of the readout's synapses;
        `values` makes class scores of them.
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
    record_spikes: bool = False,
    membranes: Mapping[str, Sequence[int] | None] | None = None,
    memory_mib: int = MEMORY_MIB,
) -> EngineOutput:
    """Run integers `[B, T, *input_shape]`, as `network.encode` makes them, from a state of rest.

    frames: T where the input is one frame `[B, 1, ...]` that is held; None is as many as given.
    record_spikes: keep the spikes of every layer, a byte per neuron and step.
    membranes: layers to record, with the neurons (into the flattened `[C, H, W]`; None is all).
    memory_mib: samples are taken in chunks that need no more than this, or one by one. What is
        returned comes on top.

    ValueError for inputs, layers or neurons that the network does not have.
    """
    _check_inputs(network, inputs, frames)
    membranes = membranes or {}
    _check_membranes(network, membranes)
    steps = frames or inputs.shape[1]
    program = _Program(network, steps, membranes)
    output = EngineOutput(
        readout=tuple(
            np.empty((len(inputs), steps, len(s.weight)), np.int32)
            for s in network.readout.synapses
        ),
        counts=(),
        spikes={
            layer.name: np.empty((steps, len(inputs), *layer.shape), np.bool_)
            for layer in network.layers
            if record_spikes
        },
        membranes={
            name: np.empty(
                (len(layer.synapses), steps, len(inputs), len(program.columns[name])), np.int32
            )
            for name, layer in program.layers.items()
            if name in membranes
        },
    )
    size = program.chunk_size(memory_mib, inputs.shape[1])
    parts = [
        program.run(inputs[first : first + size], slice(first, first + size), output)
        for first in range(0, len(inputs), size)
    ]
    totals = tuple(reduce(add, layer) for layer in zip(*parts, strict=True))
    return EngineOutput(output.readout, totals, output.spikes, output.membranes)


def values(readout: IntegerReadout, sums: Sequence[Integers]) -> NDArray[np.float64]:
    """Class scores `[..., K]` of each source's sums `[..., K]`: scaled, added up, and the bias."""
    scaled = (
        scale * np.asarray(x, np.float64) for scale, x in zip(readout.scales, sums, strict=True)
    )
    return reduce(add, scaled, readout.bias)


class _Program:
    """A network with its synapses in the order in which they are summed."""

    def __init__(
        self, network: IntegerNetwork, steps: int, membranes: Mapping[str, Sequence[int] | None]
    ):
        self.network = network
        self.steps = steps
        self.layers = {layer.name: layer for layer in network.layers}
        shapes: dict[str, Shape] = {INPUT: network.input_shape}
        self.bundles: dict[str, list[Bundle]] = {}
        for layer in network.layers:
            self.bundles[layer.name] = bundles(layer.synapses, shapes)
            shapes[layer.name] = layer.shape
        self.bundles[READOUT] = bundles(network.readout.synapses, shapes)
        self.columns = {
            name: columns(shapes[name])[slice(None) if chosen is None else list(chosen)]
            for name, chosen in membranes.items()
        }

    def chunk_size(self, memory_mib: int, input_frames: int) -> int:
        """Samples whose spikes, and the sums and membranes of one layer, fit the memory."""
        spikes = sum(prod(layer.shape) for layer in self.network.layers)
        numbers = max(self._numbers(layer, input_frames) for layer in self.network.layers)
        frames = input_frames * prod(self.network.input_shape)
        sample = self.steps * spikes + 4 * numbers + 5 * frames
        return max(1, (memory_mib << 20) // sample)

    def _numbers(self, layer: IntegerLayer, input_frames: int) -> int:
        """Integers of 32 bits that a layer makes of a sample: its sums, and recorded membranes."""
        frames = sum(input_frames if s.source == INPUT else self.steps for s in layer.synapses)
        recorded = len(layer.synapses) * self.steps if layer.name in self.columns else 0
        return prod(layer.shape) * (frames + recorded)

    def run(
        self, inputs: NDArray[np.integer[Any]], chosen: slice, output: EngineOutput
    ) -> list[LayerTotals]:
        """Samples `chosen` of the batch, written into their part of the output."""
        frames = torch.from_numpy(inputs.astype(np.int32)).transpose(0, 1)
        activity = _Activity(self.steps, to_rows(frames).contiguous())
        totals = []
        for layer in self.network.layers:
            sums = self._sums(layer.name, activity)
            record = layer.name in self.columns
            spikes, changes, recorded = _neurons(layer, sums, record)
            activity.rows[layer.name] = spikes
            totals.append(self._totals(layer.name, activity, int(changes.sum())))
            if record:
                columns = self.columns[layer.name]
                for compartment, v in enumerate(recorded):
                    output.membranes[layer.name][compartment, :, chosen] = v.numpy()[..., columns]
            if output.spikes:
                output.spikes[layer.name][:, chosen] = to_maps(spikes, layer.shape).numpy()
        updates = 0
        for into, x in zip(output.readout, self._sums(READOUT, activity), strict=True):
            into[chosen] = x.transpose(0, 1).numpy()
            updates += x[0].numel() + int(x[1:].count_nonzero())
        totals.append(self._totals(READOUT, activity, updates))
        return totals

    def _sums(self, name: str, activity: _Activity) -> list[Tensor]:
        """For each synapse `[T, B, neurons]`, expanded along T where its source holds still."""
        found: dict[int, Tensor] = {}
        for bundle in self.bundles[name]:
            rows = activity.of(bundle.source, bundle.graded)
            sums = synaptic_sums(
                rows.flatten(0, 1), bundle.connections, graded=bundle.graded, bits=bundle.bits
            )
            for member, x in zip(bundle.members, sums, strict=True):
                found[member] = x.view(*rows.shape[:2], -1).expand(self.steps, -1, -1)
        return [found[i] for i in range(len(found))]

    def _totals(self, name: str, activity: _Activity, updates: int) -> LayerTotals:
        batch = activity.rows[INPUT].shape[1]
        operations = {True: 0, False: 0}
        for bundle in self.bundles[name]:
            reached = activity.counts(bundle.source) * bundle.fan_out
            operations[bundle.graded] += int(reached.sum())
        synapses = sum(bundle.synapses for bundle in self.bundles[name])
        sources = {bundle.source for bundle in self.bundles[name]}
        if name == READOUT:
            neurons, spikes = sum(len(s.weight) for s in self.network.readout.synapses), 0
        else:
            neurons, spikes = prod(self.layers[name].shape), int(activity.counts(name).sum())
        return LayerTotals(
            name=name,
            neurons=neurons,
            inferences=batch,
            steps=batch * self.steps,
            inputs=sum(int(activity.counts(source).sum()) for source in sources),
            spikes=spikes,
            synaptic_macs=operations[True],
            synaptic_acs=operations[False],
            dense_synaptic_operations=batch * self.steps * synapses,
            neuron_updates=updates,
        )


class _Activity:
    """What the input and the layers so far sent: rows `[T, B, N]`, or `[1, B, N]` if held."""

    def __init__(self, steps: int, inputs: Tensor):
        self.steps = steps
        self.rows = {INPUT: inputs}
        self._converted: dict[tuple[str, bool], Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def of(self, source: str, graded: bool) -> Tensor:
        """Integers as int32, or what is not zero as spikes in uint8."""
        dtype = torch.int32 if graded else torch.uint8
        rows = self.rows[source]
        if rows.dtype == dtype:
            return rows
        if (source, graded) not in self._converted:
            self._converted[source, graded] = (rows if graded else rows != 0).to(dtype)
        return self._converted[source, graded]

    def counts(self, source: str) -> Tensor:
        """Values other than zero that each neuron sent over all steps and samples, `[N]`."""
        if source not in self._counts:
            rows = self.rows[source]
            self._counts[source] = event_counts(rows.flatten(0, 1)) * (self.steps // len(rows))
        return self._counts[source]


def _neurons(
    layer: IntegerLayer, sums: list[Tensor], record: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Spikes `[T, B, N]`, changes of membranes `[B, N]`, and membranes if they are recorded."""
    if isinstance(layer, IntegerDualLIF):
        gamma = None if layer.gamma is None else spread(torch.from_numpy(layer.gamma), layer.shape)
        fast, slow = sums
        dual = integer_dual_lif(
            fast,
            slow,
            dv_fast=layer.dv_fast,
            dv_slow=layer.dv_slow,
            vth=layer.vth,
            gamma=gamma,
            merge=layer.merge,
            reset=layer.reset,
            record_membranes=record,
        )
        membranes = dual.fast_membrane, dual.slow_membrane
        return dual.spikes, dual.changes, tuple(v for v in membranes if v is not None)
    bias = None if layer.bias is None else spread(torch.from_numpy(layer.bias), layer.shape)
    (only,) = sums
    out = integer_lif(
        only,
        du=layer.du,
        dv=layer.dv,
        vth=layer.vth,
        bias=bias,
        reset=layer.reset,
        record_membrane=record,
    )
    return out.spikes, out.changes, () if out.membrane is None else (out.membrane,)


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
