"""What synapses sum up to, exact: weights added up event by event, in integers alone.

Shapes: R rows (steps times samples, in any order), N columns of a row (places times channels).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuro.ops.kernels.launch import launch_integers
from neuro.ops.links import Fan


class Connections(NamedTuple):
    """Synapses of G populations with O channels each, in the order of their common source.

    Through tap t, channel c at a place of the source reaches the channels of the place at the
    link's other end with weight[t, c].
    """

    weight: Tensor  # [taps, C, G, O], int16 or int32
    fan: Fan  # by source
    places: int  # of a target


def event_sums(
    activity_RN: Tensor, connections: Connections, *, graded: bool, bits: int = 32
) -> Tensor:
    """What each population's synapses sum up to, [G, R, places * O] int32.

    Weights are added up only for values that are not zero, in 32 bits: exact in every order, and
    faster than a matrix product as long as not nearly all values are events.

    activity_RN: [R, source places * C] on the CPU, contiguous: uint8 spikes, or int32 if `graded`.
    bits: sums keep so many low bits, sign included, and wrap around beyond.
    """
    weight, fan, places = connections
    groups, outputs = weight.shape[2:]
    rows = activity_RN.shape[0]
    sums = torch.empty(groups, rows, places * outputs, dtype=torch.int32)
    launch_integers(
        "event_sums",
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
    """How many values of each column are not zero, [N] int64."""
    counts = torch.zeros(activity_RN.shape[1], dtype=torch.int32)
    launch_integers("count_events", counts.numel(), activity_RN.numel(), activity_RN, counts)
    return counts.long()
