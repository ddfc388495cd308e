"""Sums over events against matrix products in 64 bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from neuro.ops.integer_synapses import PackedSynapses, event_counts, synaptic_sums
from neuro.ops.links import Fan


def random_connections(rng: np.random.Generator, limit: int, dtype: type) -> PackedSynapses:
    """Three source places of five channels, four target places, six taps, two populations."""
    lengths = rng.integers(0, 5, 3)
    return PackedSynapses(
        weight=torch.from_numpy(rng.integers(-limit, limit, (6, 5, 2, 7)).astype(dtype)),
        fan=Fan(
            starts=torch.tensor([0, *np.cumsum(lengths)]),
            partners=torch.from_numpy(rng.integers(0, 4, lengths.sum())),
            taps=torch.from_numpy(rng.integers(0, 6, lengths.sum())),
        ),
        places=4,
    )


def matrix(connections: PackedSynapses) -> Tensor:
    """The same as one matrix [G, source places * C, places * O]."""
    channels, groups, outputs = connections.weight.shape[1:]
    weight = connections.weight.long().permute(2, 0, 1, 3)
    fan = connections.fan
    starts = fan.starts.tolist()
    dense = torch.zeros(groups, len(starts) - 1, channels, connections.places, outputs).long()
    for place, (start, stop) in enumerate(itertools.pairwise(starts)):
        for j in range(start, stop):
            dense[:, place, :, fan.partners[j]] += weight[:, fan.taps[j]]
    return dense.flatten(3).flatten(1, 2)


@pytest.mark.parametrize("graded", [False, True])
def test_sums_equal_a_matrix_product(graded: bool) -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.6, 1.0):
        connections = random_connections(rng, 256, np.int16)
        active = rng.random((50, 15)) < share
        values = rng.integers(-2000, 2000, active.shape) if graded else np.ones(active.shape)
        activity = torch.from_numpy((values * active).astype(np.int32 if graded else np.uint8))
        sums = synaptic_sums(activity, connections, graded=graded)
        expected = torch.stack([activity.long() @ m for m in matrix(connections)])
        assert sums.dtype == torch.int32
        assert torch.equal(sums.long(), expected)
        assert torch.equal(event_counts(activity), (activity != 0).sum(0))


@pytest.mark.parametrize("bits", [24, 32])
def test_sums_keep_the_low_bits(bits: int) -> None:
    rng = np.random.default_rng(0)
    connections = random_connections(rng, 1 << 20, np.int32)
    activity = torch.as_tensor(rng.integers(-(1 << 14), 1 << 14, (20, 15)), dtype=torch.int32)
    expected = torch.stack([activity.long() @ m for m in matrix(connections)])
    half = 1 << (bits - 1)
    assert (expected.abs() > half).any()
    wrapped = (expected + half) % (2 * half) - half
    assert torch.equal(synaptic_sums(activity, connections, graded=True, bits=bits).long(), wrapped)


def test_several_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    connections = random_connections(rng, 256, np.int16)
    activity = torch.from_numpy((rng.random((9001, 15)) < 0.2).astype(np.uint8))
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        sums = synaptic_sums(activity, connections, graded=False)
        results.append((sums, event_counts(activity)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
