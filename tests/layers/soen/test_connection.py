"""Connections: outputs, and constraints that hold after the updates of every optimizer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuro.layers.soen.connection import Connection, Constraints
from neuro.layers.soen.connectivity import AllToAll, ConstantFanIn
from neuro.layers.soen.initial import Constant, Normal, Orthogonal
from neuro.training.optimizers import SGD, Adam, AdamW, Lion, Muon, RMSprop

OPTIMIZERS = [
    SGD(0.5, 0.9),
    Adam(0.5),
    AdamW(0.5),
    RMSprop(0.5),
    Lion(0.5),
    Muon(0.5),
]
CONSTRAINTS = {
    "range": Constraints(minimum=-0.1, maximum=0.2),
    "minimum": Constraints(minimum=-0.05),
    "maximum": Constraints(maximum=0.05),
    "positive": Constraints(sign="positive"),
    "negative": Constraints(sign="negative", minimum=-0.3),
    "excitatory": Constraints(excitatory=0.75, maximum=0.3),
}


def connection(
    constraints=None,
    *,
    to=6,
    from_=8,
    structure=None,
    initial=None,
    internal=False,
    learnable=True,
    seed=0,
):
    torch.manual_seed(seed)
    return Connection(
        to,
        from_,
        structure or AllToAll(),
        initial or Normal(),
        constraints or Constraints(),
        internal=internal,
        learnable=learnable,
    )


def assert_holds(weight, constraints):
    low = -torch.inf if constraints.minimum is None else constraints.minimum
    high = torch.inf if constraints.maximum is None else constraints.maximum
    assert low <= weight.min() and weight.max() <= high
    if constraints.sign == "positive":
        assert weight.min() >= 0
    if constraints.sign == "negative":
        assert weight.max() <= 0
    if constraints.excitatory is not None:
        positive, negative = (weight >= 0).all(0), (weight <= 0).all(0)
        assert (positive | negative).all()
        most = round(constraints.excitatory * len(positive))
        assert (positive & ~negative).sum() <= most  # an update may lead to columns of zeros
        assert (negative & ~positive).sum() <= len(positive) - most


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("factory", OPTIMIZERS, ids=lambda f: type(f).__name__)
def test_constraints_hold_from_the_start_and_after_every_update(factory, name):
    constraints = CONSTRAINTS[name]
    made = connection(constraints, structure=ConstantFanIn(5))
    assert made.constrained
    assert_holds(made.weight, constraints)
    optimizer = factory(made.named_parameters())
    s = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    moved = False
    for _ in range(3):
        before = made.weight.detach().clone()
        optimizer.zero_grad()
        (10 * made(s)).square().sum().backward()
        optimizer.step()
        made.project()
        assert_holds(made.weight, constraints)
        assert torch.equal(made.weight != 0, (made.weight != 0) & (made.existing() > 0))
        moved |= not torch.equal(before, made.weight)
    assert moved


def test_starting_values_of_the_wrong_sign_are_mirrored():
    free, signed = connection(), connection(Constraints(sign="positive"))
    assert torch.equal(signed.weight, free.weight.abs())
    dale = connection(Constraints(excitatory=0.5))
    assert torch.equal(dale.weight.abs(), free.weight.abs())
    # weights whose negative is not allowed either are clamped
    bounded = connection(Constraints(minimum=-0.1, maximum=0.1))
    assert torch.equal(bounded.weight, free.weight.clamp(-0.1, 0.1))


def test_the_seed_determines_polarities_masks_and_weights():
    def one(seed):
        return connection(
            Constraints(excitatory=0.5), structure=ConstantFanIn(3), from_=40, seed=seed
        )

    assert torch.equal(one(0).weight, one(0).weight)
    assert not torch.equal(one(0).mask, one(1).mask)
    assert not torch.equal(one(0).low, one(1).low)


def test_polarity_is_saved():
    one, other = (connection(Constraints(excitatory=0.5), from_=40, seed=s) for s in (0, 1))
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        other.weight.uniform_(-1, 1)
    other.project()
    assert torch.equal(other.weight > 0, (other.weight > 0) & (one.low == 0))


@pytest.mark.parametrize("share, count", [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_the_excitatory_fraction_is_exact(share, count):
    weight = connection(Constraints(excitatory=share), from_=40).weight
    assert int((weight > 0).all(0).sum()) == count
    assert int((weight < 0).all(0).sum()) == 40 - count


def test_absent_connections_have_no_output_and_no_gradient():
    made = connection(structure=ConstantFanIn(3))
    s = torch.randn(5, 8)
    torch.testing.assert_close(made(s), F.linear(s, made.weight * made.mask))
    made(s).sum().backward()
    assert not made.weight.grad[made.mask == 0].any()
    assert made.weight.grad[made.mask == 1].all()


def test_a_full_connection_keeps_no_mask():
    assert connection().mask is None
    assert connection().existing().sum() == 48
    assert torch.equal(connection().matrix(), connection().weight)
    assert not connection().constrained


def test_weights_that_are_not_learnable_are_kept_but_not_trained():
    fixed = connection(Constraints(maximum=0.05), learnable=False)
    assert not list(fixed.parameters())
    assert "weight" in fixed.state_dict()
    assert not fixed.constrained and fixed.weight.max() <= 0.05


def test_an_internal_connection_may_exclude_self_connections():
    made = connection(
        to=8, structure=AllToAll(allow_self=False), initial=Constant(1.0), internal=True
    )
    assert torch.equal(made.matrix(), 1 - torch.eye(8))


def test_an_orthogonal_initialisation_is_masked():
    made = connection(structure=ConstantFanIn(3), initial=Orthogonal())
    assert (made.weight != 0).sum(1).tolist() == [3] * 6


@pytest.mark.parametrize(
    "options, message",
    [
        ({"minimum": 0.2, "maximum": 0.1}, r"minimum \(0.2\) must be below maximum \(0.1\)"),
        ({"sign": "positive", "excitatory": 0.5}, "sign, excitatory: give one of them"),
        ({"sign": "positive", "maximum": -0.1}, "no weight between -inf and -0.1 has the required"),
        ({"sign": "negative", "minimum": 0.1}, "no weight between 0.1 and inf has the required"),
        ({"excitatory": 0.5, "minimum": 0.1}, "no weight between 0.1 and inf has the required"),
        ({"excitatory": 0.5, "maximum": 0.0}, "no weight between -inf and 0.0 has the required"),
    ],
)
def test_contradictory_constraints(options, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**options)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_excitatory_fraction_of_0_or_1_allows_one_sign_only(share):
    bounds = {"minimum": 0.1} if share else {"maximum": -0.1}
    assert (connection(Constraints(excitatory=share, **bounds)).weight > 0).all() == bool(share)
