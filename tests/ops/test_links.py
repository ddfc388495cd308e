"""Links between places of a convolution against the convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neuro.ops.links import convolution_links, dense_links


def test_links_are_the_weights_of_a_convolution() -> None:
    size, kernel, stride, padding = (5, 6), (3, 2), (2, 1), (1, 0)
    links = convolution_links(size, kernel, stride, padding)
    weight = torch.arange(1.0, 7.0)  # one for each tap
    matrix = torch.zeros(links.targets, links.sources)
    matrix[links.target, links.source] = weight[links.tap]
    maps = torch.randn(4, 1, *size)
    expected = F.conv2d(maps, weight.view(1, 1, *kernel), stride=stride, padding=padding)
    assert links.taps == 6
    torch.testing.assert_close(maps.flatten(1) @ matrix.T, expected.flatten(1))


def test_links_by_source_and_by_target_are_complete() -> None:
    links = convolution_links((4, 4), (3, 3), (2, 2), (1, 1))
    every = set(zip(links.source.tolist(), links.target.tolist(), links.tap.tolist(), strict=True))
    for fan, places, from_source in (
        (links.by_source(), links.sources, True),
        (links.by_target(), links.targets, False),
    ):
        own = torch.arange(places).repeat_interleave(fan.starts.diff())
        ends = (own, fan.partners) if from_source else (fan.partners, own)
        found = set(zip(*(side.tolist() for side in (*ends, fan.taps)), strict=True))
        assert found == every and len(fan.taps) == len(every)


def test_a_dense_map_is_one_link() -> None:
    links = dense_links()
    assert (links.sources, links.targets, links.taps, len(links.tap)) == (1, 1, 1, 1)
