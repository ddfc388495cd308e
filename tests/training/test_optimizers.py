"""Optimizers against torch's own, and the effect of every option."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuro.build import build, check
from neuro.errors import ConfigError
from neuro.training.optimizers import (
    SGD,
    Adam,
    AdamW,
    OptimizerFactory,
    load_state_by_name,
    state_by_name,
)


def trained(factory, steps=3, make=None):
    """Weights after a few steps on a fixed problem."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    optimizer = (make or factory)(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) ** 2).sum().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "factory, own",
    [
        (AdamW(0.1, weight_decay=0), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0)),
        (Adam(0.1, (0.5, 0.6), 1e-3), lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.6), 1e-3)),
        (SGD(0.01, 0.9), lambda p: torch.optim.SGD(p, 0.01, 0.9)),
        (SGD(0.01, 0.9, True), lambda p: torch.optim.SGD(p, 0.01, 0.9, nesterov=True)),
    ],
)
def test_the_same_steps_as_torch(factory, own):
    torch.testing.assert_close(trained(factory), trained(None, make=own), rtol=0, atol=0)


@pytest.mark.parametrize(
    "base, changed",
    [
        (AdamW(), AdamW(lr=0.1)),
        (AdamW(), AdamW(betas=(0.5, 0.999))),
        (AdamW(), AdamW(betas=(0.9, 0.5))),
        (AdamW(), AdamW(eps=0.1)),
        (AdamW(), AdamW(weight_decay=0.5)),
        (Adam(), Adam(lr=0.1)),
        (Adam(), Adam(betas=(0.5, 0.5))),
        (Adam(), Adam(eps=0.1)),
        (Adam(), Adam(weight_decay=0.5)),
        (SGD(), SGD(lr=0.02)),
        (SGD(), SGD(momentum=0.5)),
        (SGD(momentum=0.5), SGD(momentum=0.5, nesterov=True)),
        (SGD(), SGD(weight_decay=0.5)),
    ],
)
def test_every_option_has_an_effect(base, changed):
    assert not torch.equal(trained(base), trained(changed))


@pytest.mark.parametrize(
    "factory", [AdamW(weight_decay=0.5), Adam(weight_decay=0.5), SGD(weight_decay=0.5)]
)
def test_only_matrices_decay(factory):
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = factory(model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0.weight"}


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = SGD()(model.parameters()).param_groups
    assert [p is model.bias for g in groups for p in g["params"]] == [True]


def test_nothing_to_train_gives_an_optimizer_that_does_nothing():
    model = nn.Linear(2, 2).requires_grad_(False)
    for factory in (SGD(), AdamW()):
        optimizer = factory(model.parameters())
        assert optimizer.param_groups[0]["lr"] == factory.lr
        optimizer.step()
        assert state_by_name(optimizer, model) == {}


def test_nesterov_needs_momentum():
    node = {"_target_": "neuro.training.optimizers.SGD", "nesterov": True}
    with pytest.raises(ConfigError, match="optimizer: nesterov=true needs momentum > 0"):
        build(node, OptimizerFactory, "optimizer")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("lr", 0, "greater than 0"),
        ("betas", [0.9, 1.0], "less than 1"),
        ("betas", [0.9], "betas.1: required"),
        ("weight_decay", -1, "greater than or equal to 0"),
        ("eps", float("nan"), "finite"),
        ("lrr", 1, "Did you mean 'lr'"),
    ],
)
def test_bad_options_are_refused(key, value, message):
    node = {"_target_": "neuro.training.optimizers.AdamW", key: value}
    (problem,) = check(node, OptimizerFactory, "optimizer")
    assert message in problem and problem.startswith(f"optimizer.{key}")


def test_an_optimizers_memory_goes_on_by_name():
    """Whole: five steps. In two: three, then two by a new optimizer over more parameters."""
    torch.manual_seed(0)
    x = torch.randn(5, 3)

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()

    for factory in (AdamW(0.1), SGD(0.01, 0.9)):
        whole, parts = nn.Linear(3, 2), nn.Linear(3, 2)
        parts.load_state_dict(whole.state_dict())
        steps(whole, factory(whole.parameters()), 5)
        first = factory(parts.parameters())
        steps(parts, first, 3)
        memory = state_by_name(first, parts)
        assert set(memory) == {"weight", "bias"}
        second = factory(reversed(list(parts.parameters())))
        load_state_by_name(second, parts, memory)
        steps(parts, second, 2)
        assert torch.equal(whole.weight, parts.weight)
        kept = memory["weight"]
        assert all(v is not second.state[parts.weight][k] for k, v in kept.items() if v is not None)


def test_memory_of_unknown_or_frozen_parameters_is_left_out():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    optimizer = SGD(momentum=0.5)(model.parameters())
    momentum = {"momentum_buffer": torch.ones(1)}
    load_state_by_name(optimizer, model, {"bias": momentum, "gone": momentum})
    assert not optimizer.state
