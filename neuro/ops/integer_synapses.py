"""Synaptic sums in exact integer arithmetic: weights are added event by event.

Shapes: R rows (steps times samples, in any order), N columns of a row (places times channels).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuro.ops.kernels.launch import launch_integers
from neuro.ops.links import Fan


class PackedSynapses(NamedTuple):
    """Synapses from one source onto G populations with O channels each, ordered by source place.

    A link with tap t connects channel c of a source place to the channels of a target place with
    the weights weight[t, c].
    """

    weight: Tensor  # [taps, C, G, O], int16 or int32
    fan: Fan  # links by source place
    places: int  # places of a target population


def synaptic_sums(
    activity_RN: Tensor, synapses: PackedSynapses, *, graded: bool, bits: int = 32
) -> Tensor:
    """Weights times inputs, summed for each neuron of each population: [G, R, places * O], int32.

    Only inputs that are not zero are added, in 32 bits: exact in any order, and faster than a
    matrix product unless nearly all inputs are events.

    activity_RN: [R, source places * C] on the CPU, contiguous: uint8 spikes, or int32 if `graded`.
    bits: number of low bits that a sum keeps, sign included; larger sums wrap.
    """
    weight, fan, places = synapses
    groups, outputs = weight.shape[2:]
    rows = activity_RN.shape[0]
    sums = torch.empty(groups, rows, places * outputs, dtype=torch.int32)
    launch_integers(
        "synaptic_sums",
        rows,
        activity_RN.numel() + sums.numel(),
        activity_RN,
        weight,
        *fan,
        sums,
        graded,
        32 - bits,
    )
    return sums


def event_counts(activity_RN: Tensor) -> Tensor:
    """Number of values that are not zero in each column, [N] int64."""
    counts = torch.zeros(activity_RN.shape[1], dtype=torch.int32)
    launch_integers("count_events", counts.numel(), activity_RN.numel(), activity_RN, counts)
    return counts.long()
