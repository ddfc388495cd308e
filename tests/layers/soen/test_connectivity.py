"""Connectivity structures against closed forms, counts or statistics."""

from __future__ import annotations

import math

import pytest
import torch

from neuro.layers.soen.connectivity import (
    STRUCTURES,
    AllToAll,
    Block,
    Chain,
    ConstantFanIn,
    Custom,
    ExponentialDecay,
    Hierarchical,
    OneToOne,
    PowerLaw,
    Sparse,
    Structure,
)

#: one of each structure, for layers of equal width
ALL: dict[str, Structure] = {
    "dense": AllToAll(),
    "one_to_one": OneToOne(),
    "chain": Chain(),
    "sparse": Sparse(0.3),
    "constant_fan_in": ConstantFanIn(5),
    "power_law": PowerLaw(),
    "exponential_decay": ExponentialDecay(),
    "block": Block(4, within=0.8, between=0.1),
    "hierarchical": Hierarchical(),
    "custom": Custom(((1,) * 32,) * 32),
}
DRAWN = ("sparse", "constant_fan_in", "power_law", "exponential_decay", "block", "hierarchical")


def made(structure, to=32, from_=32, seed=0, internal=False):
    generator = torch.Generator().manual_seed(seed)
    return structure.make(to, from_, internal=internal, generator=generator)


def test_every_structure_is_tested():
    assert ALL.keys() == STRUCTURES.keys()
    assert all(type(ALL[name]) is kind for name, kind in STRUCTURES.items())


@pytest.mark.parametrize("name", ALL)
def test_a_mask_is_binary_and_determined_by_its_generator(name):
    mask = made(ALL[name])
    assert mask.shape == (32, 32) and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    torch.manual_seed(5)  # the global generator has no effect
    assert torch.equal(mask, made(ALL[name]))
    assert torch.equal(mask, made(ALL[name], seed=1)) == (name not in DRAWN)


@pytest.mark.parametrize("kind", [AllToAll, OneToOne, Sparse, PowerLaw, ExponentialDecay])
def test_self_connections_need_allow_self(kind):
    options = {"density": 0.9} if kind is Sparse else {}
    assert made(kind(**options), internal=True).diagonal().any()
    if kind is OneToOne:
        with pytest.raises(ValueError, match="connects none of 32 to 32 nodes"):
            made(kind(allow_self=False), internal=True)
        return
    assert not made(kind(**options, allow_self=False), internal=True).diagonal().any()
    # nodes with the same index in two layers are different nodes
    between = made(kind(**options, allow_self=False), internal=False)
    assert torch.equal(between, made(kind(**options), internal=False))


@pytest.mark.parametrize("name", ["constant_fan_in", "block", "hierarchical", "chain", "custom"])
def test_the_other_structures_support_allow_self_too(name):
    options = {
        "constant_fan_in": {"fan_in": 31},
        "block": {"blocks": 2},
        "hierarchical": {},
        "chain": {},
        "custom": {"mask": ((1,) * 32,) * 32},
    }[name]
    kind = STRUCTURES[name]
    assert made(kind(**options), internal=True).diagonal().any() == (name != "chain")
    assert not made(kind(**options, allow_self=False), internal=True).diagonal().any()


def test_dense_one_to_one_and_chain():
    assert made(AllToAll(), 3, 5).sum() == 15
    assert torch.equal(made(OneToOne(), 3, 3), torch.eye(3))
    chain = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert made(Chain(), 3, 3).tolist() == chain
    chain[0][2] = 1
    assert made(Chain(closed=True), 3, 3).tolist() == chain


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_sparse_has_its_density(density):
    mask = made(Sparse(density), 200, 300)
    sigma = math.sqrt(density * (1 - density) / mask.numel())
    assert abs(float(mask.mean()) - density) <= 5 * sigma


@pytest.mark.parametrize("fan_in", [1, 7, 20])
def test_constant_fan_in_is_exact_and_spread_over_the_sources(fan_in):
    mask = made(ConstantFanIn(fan_in), 400, 20)
    assert mask.sum(1).tolist() == [fan_in] * 400
    expected = 400 * fan_in / 20
    assert (mask.sum(0) - expected).abs().max() <= 5 * math.sqrt(expected)


def test_constant_fan_in_is_exact_without_self_connections_too():
    mask = made(ConstantFanIn(31, allow_self=False), internal=True)
    assert torch.equal(mask, 1 - torch.eye(32))
    with pytest.raises(ValueError, match="fan_in: got 32; there are only 31 source nodes"):
        made(ConstantFanIn(32, allow_self=False), internal=True)


def share_by_distance(structure, plane):
    """Distances of the pairs and their fraction of connected draws, `[400]` each."""
    drawn = torch.stack([made(structure, 20, 20, seed) for seed in range(300)]).mean(0)
    if plane:
        side = 5  # ceil(sqrt(20))
        places = (torch.stack([torch.arange(20) % side, torch.arange(20) // side], -1) + 0.5) / side
    else:
        places = torch.tensor([[(n + 0.5) / 20] for n in range(20)])
    distance = (places[:, None] - places).square().sum(-1).sqrt()
    return distance.flatten(), drawn.flatten()


@pytest.mark.parametrize("plane", [False, True])
@pytest.mark.parametrize("length", [0.1, 0.3])
def test_exponential_decay_has_the_given_length(length, plane):
    distance, share = share_by_distance(ExponentialDecay(length, plane), plane)
    assert (share - torch.exp(-distance / length)).abs().max() < 5 * 0.5 / math.sqrt(300)


@pytest.mark.parametrize("plane", [False, True])
@pytest.mark.parametrize("exponent, reach", [(2.0, 0.1), (1.0, 0.2)])
def test_power_law_has_the_given_exponent_and_reach(exponent, reach, plane):
    distance, share = share_by_distance(PowerLaw(exponent, reach, plane), plane)
    expected = (distance.clamp_min(1e-9) / reach).pow(-exponent).clamp_max(1.0)
    assert (share - expected).abs().max() < 5 * 0.5 / math.sqrt(300)


def test_layers_of_different_width_have_positions_on_one_line():
    near = made(ExponentialDecay(0.03), 8, 4)
    rows, columns = near.nonzero(as_tuple=True)
    assert len(rows) and ((rows + 0.5) / 8 - (columns + 0.5) / 4).abs().max() < 0.2


def test_block_connects_within_and_between():
    apart = made(Block(2), 4, 6)
    assert apart.tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 1, 1]] * 2
    drawn = torch.stack(
        [made(Block(2, within=0.7, between=0.2), 10, 10, seed) for seed in range(200)]
    ).mean(0)
    assert drawn[:5, :5].mean() == pytest.approx(0.7, abs=0.04)
    assert drawn[5:, :5].mean() == pytest.approx(0.2, abs=0.04)


def test_hierarchical_falls_by_its_decay_at_each_level():
    structure = Hierarchical(levels=2, branching=2, within=0.9, decay=0.5)
    share = torch.stack([made(structure, 8, 8, seed) for seed in range(500)]).mean(0)
    # groups of 2 within groups of 4
    for (to, from_), expected in {(0, 1): 0.9, (0, 2): 0.45, (0, 7): 0.225}.items():
        assert share[to, from_] == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(500))


def test_a_branching_of_three_gives_nine_innermost_groups():
    mask = made(Hierarchical(levels=2, branching=3, decay=1e-9), 9, 9)
    assert torch.equal(mask, torch.eye(9))


def test_a_custom_mask_is_not_changed():
    assert made(Custom(((1, 0, 1), (0, 1, 0))), 2, 3).tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    "structure, widths, message",
    [
        (OneToOne(), (3, 4), "one_to_one needs equal widths; got 4 and 3"),
        (Chain(), (3, 4), "chain needs equal widths; got 4 and 3"),
        (ConstantFanIn(5), (3, 4), "fan_in: got 5; there are only 4 source nodes"),
        (Block(4), (3, 8), "blocks: got 4 for layers of 8 and 3 nodes"),
        (Hierarchical(), (9, 7), "levels, branching: 8 innermost groups for layers of 7 and 9"),
        (Custom(((1, 0),)), (2, 2), r"mask: got 1 rows of \[2\]; expected 2 of 2"),
        (Custom(((1, 0), (1,))), (2, 2), r"mask: got 2 rows of \[1, 2\]; expected 2 of 2"),
        (Custom(((0, 0),)), (1, 2), "connects none of 2 to 1 nodes"),
        (Chain(), (1, 1), "connects none of 1 to 1 nodes"),
        (Sparse(1e-9), (2, 2), "connects none of 2 to 2 nodes"),
    ],
)
def test_invalid_options(structure, widths, message):
    with pytest.raises(ValueError, match=message):
        made(structure, *widths)
