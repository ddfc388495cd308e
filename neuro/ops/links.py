"""Which places of a map reach which of the next: a convolution as a list of links.

A dense map is the case of one place and one tap: all neurons are channels of that place.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Fan(NamedTuple):
    """Links in the order of the places on one side.

    Place p meets, for every j in starts[p] .. starts[p + 1] - 1, place partners[j] of the other
    side through tap taps[j].
    """

    starts: Tensor  # [places + 1], int64
    partners: Tensor  # [J], int64
    taps: Tensor  # [J], int64


class Links(NamedTuple):
    """Link j leads from place source[j] to place target[j] through tap tap[j]; int64 [J] each."""

    source: Tensor
    target: Tensor
    tap: Tensor
    sources: int  # places
    targets: int
    taps: int

    def by_source(self) -> Fan:
        return _fan(self.source, self.target, self.tap, self.sources)

    def by_target(self) -> Fan:
        return _fan(self.target, self.source, self.tap, self.targets)


@cache
def dense_links() -> Links:
    only = torch.zeros(1, dtype=torch.int64)
    return Links(only, only, only, 1, 1, 1)


@cache
def convolution_links(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Links:
    """A convolution over maps of `size`; what it would see beyond their borders is no link."""
    padded = torch.full([n + 2 * p for n, p in zip(size, padding, strict=True)], -1)
    (top, left), (height, width) = padding, size
    padded[top : top + height, left : left + width] = torch.arange(prod(size)).view(size)
    windows = padded.unfold(0, kernel[0], stride[0]).unfold(1, kernel[1], stride[1])
    seen = windows.reshape(-1, prod(kernel))
    target, tap = (seen >= 0).nonzero(as_tuple=True)
    return Links(seen[target, tap], target, tap, prod(size), len(seen), prod(kernel))


def _fan(places: Tensor, partners: Tensor, taps: Tensor, count: int) -> Fan:
    order = places.argsort(stable=True)
    starts = torch.searchsorted(places[order], torch.arange(count + 1))
    return Fan(starts, partners[order], taps[order])
