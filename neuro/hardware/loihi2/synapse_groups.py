"""Synapses of a layer, grouped and reordered for the engine's event-driven sums.

Rows hold the neurons of a map in the order `[H, W, C]` (`layers/layout.py`); weights of the integer
network are for `[C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuro.hardware.loihi2.integer import STATE_BITS, Integers, IntegerSynapse
from neuro.models.graph import Shape
from neuro.ops.integer_synapses import PackedSynapses
from neuro.ops.links import convolution_links, dense_links


class SynapseGroup(NamedTuple):
    """Synapses of a layer with the same source, geometry and delay, which are summed in one pass.

    A synapse whose delays differ is in several groups, with the weights of one delay in each.
    """

    members: list[int]  # indices into the layer's synapses
    source: str
    graded: bool
    delay: int  # steps
    columns: Tensor | None  # of the sources' rows [N] that have weights in this group; None: all
    bits: int  # width of the sums
    packed: PackedSynapses
    fan_out: Tensor  # [N], number of non-zero weights of each of these source neurons
    dense_operations: int  # weights times inputs per step, zeros included


def synapse_groups(
    synapses: Sequence[IntegerSynapse], shapes: Mapping[str, Shape]
) -> list[SynapseGroup]:
    """Group the synapses of a layer by source and geometry.

    shapes: of the sources, by name.
    """
    members: dict[tuple[Any, ...], list[int]] = {}
    for i, s in enumerate(synapses):
        if s.delays is None:
            key = s.source, s.weight.shape, s.stride, s.padding, s.graded
            members.setdefault(key, []).append(i)
    groups = [
        _group(chosen, [synapses[i] for i in chosen], shapes[source])
        for (source, *_), chosen in members.items()
    ]
    for i, s in enumerate(synapses):
        if s.delays is not None:
            delays = np.broadcast_to(s.delays, s.weight.shape)
            groups += [
                _delayed(i, s, delays == delay, shapes[s.source])._replace(delay=delay)
                for delay in np.unique(delays).tolist()
            ]
    return groups


def _delayed(
    member: int, synapse: IntegerSynapse, chosen: NDArray[np.bool_], shape: Shape
) -> SynapseGroup:
    """The `chosen` weights `[O, N]` of a synapse, which have the same delay."""
    sources = np.flatnonzero(chosen.any(0))
    weight = np.where(chosen, synapse.weight, 0)[:, sources]
    part = replace(synapse, weight=weight, delays=None)
    return _group([member], [part], (len(sources),))._replace(
        columns=torch.from_numpy(columns(shape)[sources]), dense_operations=int(chosen.sum())
    )


def columns(shape: Shape) -> NDArray[np.int64]:
    """Column in a row of each neuron of the flattened `[C, H, W]`."""
    numbers = np.arange(prod(shape))
    if len(shape) == 1:
        return numbers
    channels, height, width = shape
    return numbers.reshape(height, width, channels).transpose(2, 0, 1).ravel()


def _group(members: list[int], synapses: list[IntegerSynapse], shape: Shape) -> SynapseGroup:
    """Pack synapses of one geometry from a source of `shape`."""
    first = synapses[0]
    if first.is_convolution:
        size, kernel = shape[1:], first.weight.shape[2:]
        links = convolution_links(size, kernel, first.stride, first.padding)
        weights = [_taps(s.weight) for s in synapses]
    else:
        links = dense_links()
        weights = [_row_weight(s.weight, shape).T[None] for s in synapses]
    weight = np.stack(weights, axis=2)  # [taps, C, G, O]
    fan_out = np.zeros((links.sources, weight.shape[1]), np.int64)
    np.add.at(fan_out, links.source.numpy(), np.count_nonzero(weight, axis=(2, 3))[links.tap])
    narrow = np.abs(weight).max(initial=0) < 1 << 15  # int16 takes half the cache of int32
    return SynapseGroup(
        members=members,
        source=first.source,
        graded=first.graded,
        delay=0,
        columns=None,
        bits=STATE_BITS if first.is_convolution else 32,  # as Lava's Conv and Dense
        packed=PackedSynapses(
            weight=torch.from_numpy(weight.astype(np.int16 if narrow else np.int32, order="C")),
            fan=links.by_source(),
            places=links.targets,
        ),
        fan_out=torch.from_numpy(fan_out.ravel()),
        dense_operations=len(links.tap) * prod(weight.shape[1:]),
    )


def _taps(weight: Integers) -> Integers:
    """Reorder `[O, I, kh, kw]` to `[kh * kw, I, O]`."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[1], weight.shape[0])


def _row_weight(weight: Integers, shape: Shape) -> Integers:
    """Reorder the columns of `[O, N]` from the flattened `[C, H, W]` to rows."""
    ordered = np.empty_like(weight)
    ordered[:, columns(shape)] = weight
    return ordered
