"""Connectivity of places as lists of links, for event-driven convolutions.

A link connects a source place to a target place through a tap, a position in the kernel. A dense
layer is the case of one place and one tap, where all neurons are channels of that place.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Fan(NamedTuple):
    """Links grouped by the place at one end (compressed sparse rows).

    Place p is linked to the places partners[j] of the other end through taps[j], for j from
    starts[p] to starts[p + 1] - 1.
    """

    starts: Tensor  # [places + 1], int64
    partners: Tensor  # [J], int64
    taps: Tensor  # [J], int64


class Links(NamedTuple):
    """J links from place source[j] to place target[j] through tap[j]; int64 [J] each."""

    source: Tensor
    target: Tensor
    tap: Tensor
    sources: int  # number of source places
    targets: int  # number of target places
    taps: int  # number of taps

    def by_source(self) -> Fan:
        return _fan(self.source, self.target, self.tap, self.sources)

    def by_target(self) -> Fan:
        return _fan(self.target, self.source, self.tap, self.targets)


@cache
def dense_links() -> Links:
    """The single link of a dense layer."""
    only = torch.zeros(1, dtype=torch.int64)
    return Links(only, only, only, 1, 1, 1)


@cache
def convolution_links(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Links:
    """Links of a convolution over maps of `size`; there are none to the padding."""
    # Unfold a map of place numbers, -1 for the padding: entry [target, tap] is the source place.
    padded = torch.full([n + 2 * p for n, p in zip(size, padding, strict=True)], -1)
    (top, left), (height, width) = padding, size
    padded[top : top + height, left : left + width] = torch.arange(prod(size)).view(size)
    windows = padded.unfold(0, kernel[0], stride[0]).unfold(1, kernel[1], stride[1])
    seen = windows.reshape(-1, prod(kernel))
    target, tap = (seen >= 0).nonzero(as_tuple=True)
    return Links(seen[target, tap], target, tap, prod(size), len(seen), prod(kernel))


def _fan(places: Tensor, partners: Tensor, taps: Tensor, count: int) -> Fan:
    order = places.argsort(stable=True)  # stable: the order of sums must not vary
    starts = torch.searchsorted(places[order], torch.arange(count + 1))
    return Fan(starts, partners[order], taps[order])
