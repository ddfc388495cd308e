"""Optimizers against torch's own, and the effect of every option."""

from __future__ import annotations

import copy
import re

import lion_pytorch
import pytest
import torch
from torch import nn

from neuro.config.build import build
from neuro.errors import ConfigError
from neuro.io import checkpoint
from neuro.training.callbacks.base import Callback
from neuro.training.optimizer_state import load_state_by_name, state_by_name
from neuro.training.optimizers import (
    SGD,
    Adam,
    AdamW,
    Lion,
    Muon,
    OptimizerFactory,
    RMSprop,
)
from neuro.training.parameter_groups import ParameterGroup
from tests import fakes
from tests.components import check
from tests.fakes import TWO_PHASES, linear, make_trainer, same_state


def trained(factory, steps=3, make=None):
    """Weights after a few steps on a fixed problem."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    optimizer = factory(model.named_parameters()) if make is None else make(model.parameters())
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
        (Adam(0.1, amsgrad=True), lambda p: torch.optim.Adam(p, 0.1, amsgrad=True)),
        (
            AdamW(0.1, weight_decay=0, amsgrad=True),
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0, amsgrad=True),
        ),
        (SGD(0.01, 0.9, dampening=0.3), lambda p: torch.optim.SGD(p, 0.01, 0.9, 0.3)),
        (SGD(0.01, 0.9), lambda p: torch.optim.SGD(p, 0.01, 0.9)),
        (SGD(0.01, 0.9, True), lambda p: torch.optim.SGD(p, 0.01, 0.9, nesterov=True)),
        (RMSprop(0.01, 0.9), lambda p: torch.optim.RMSprop(p, 0.01, 0.9)),
        (Lion(0.01, weight_decay=0), lambda p: lion_pytorch.Lion(p, 0.01)),
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
        (SGD(0.01, 0.0), SGD(0.02, 0.0)),
        (SGD(0.01, 0.0), SGD(0.01, 0.5)),
        (SGD(0.01, 0.5), SGD(0.01, 0.5, nesterov=True)),
        (SGD(0.01, 0.0), SGD(0.01, 0.0, weight_decay=0.5)),
        (SGD(0.01, 0.0), SGD(0.01, 0.0, groups={"bias": ParameterGroup(lr=0.5)})),
        (RMSprop(), RMSprop(lr=0.1)),
        (RMSprop(), RMSprop(alpha=0.5)),
        (RMSprop(), RMSprop(eps=0.1)),
        (RMSprop(), RMSprop(momentum=0.5)),
        (RMSprop(), RMSprop(centered=True)),
        (RMSprop(), RMSprop(weight_decay=0.5)),
        (Lion(), Lion(lr=0.1)),
        (Lion(0.5), Lion(0.5, betas=(0.0, 0.99))),
        (Lion(0.5), Lion(0.5, betas=(0.9, 0.0))),
        (Lion(), Lion(weight_decay=0.5)),
        (Muon(), Muon(lr=0.1)),
        (Muon(), Muon(momentum=0.1)),
        (Muon(), Muon(nesterov=False)),
        (Muon(), Muon(ns_steps=2)),
        (Muon(), Muon(scaling="original")),
        (Muon(), Muon(adamw=("weight",))),
        (Muon(), Muon(adamw_lr=0.1)),
        (Muon(), Muon(betas=(0.5, 0.5))),
        (Muon(), Muon(eps=0.1)),
        (Muon(), Muon(weight_decay=5.0)),
    ],
)
def test_every_option_has_an_effect(base, changed):
    assert not torch.equal(trained(base), trained(changed))


@pytest.mark.parametrize(
    "factory",
    [
        SGD(0.01, 0.0, weight_decay=0.5),
        *(f(weight_decay=0.5) for f in (AdamW, Adam, RMSprop, Lion, Muon)),
    ],
)
def test_only_matrices_decay(factory):
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = factory(model.named_parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0.weight"}


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = SGD(0.01, 0.0)(model.named_parameters()).param_groups
    assert [p is model.bias for g in groups for p in g["params"]] == [True]


def test_nothing_to_train_gives_an_optimizer_that_does_nothing():
    model = nn.Linear(2, 2).requires_grad_(False)
    for factory in (SGD(0.01, 0.0), AdamW(), RMSprop(), Lion(), Muon()):
        optimizer = factory(model.named_parameters())
        assert optimizer.param_groups[0]["lr"] == factory.lr
        optimizer.step()
        assert state_by_name(optimizer, dict(model.named_parameters())) == {}


def test_nesterov_needs_momentum():
    node = {**fakes.SGD, "nesterov": True}
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


def test_optimizer_state_is_restored_by_name():
    """Five steps equal three steps, then two of a new optimizer over more parameters."""
    torch.manual_seed(0)
    x = torch.randn(5, 3)

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()

    for factory in (AdamW(0.1), SGD(0.01, 0.9), RMSprop(), Lion(), Muon()):
        whole, parts = nn.Linear(3, 2), nn.Linear(3, 2)
        parts.load_state_dict(whole.state_dict())
        steps(whole, factory(whole.named_parameters()), 5)
        first = factory(parts.named_parameters())
        steps(parts, first, 3)
        memory = state_by_name(first, dict(parts.named_parameters()))
        assert set(memory) == {"weight", "bias"}
        second = factory(reversed(list(parts.named_parameters())))
        load_state_by_name(second, dict(parts.named_parameters()), memory)
        steps(parts, second, 2)
        assert torch.equal(whole.weight, parts.weight)
        kept = memory["weight"]
        assert all(v is not second.state[parts.weight][k] for k, v in kept.items() if v is not None)


def test_state_of_unknown_or_frozen_parameters_is_left_out():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    optimizer = SGD(0.01, 0.5)(model.named_parameters())
    momentum = {"momentum_buffer": torch.ones(1)}
    load_state_by_name(
        optimizer, dict(model.named_parameters()), {"bias": momentum, "gone": momentum}
    )
    assert not optimizer.state


# -- muon: two optimizers as one ------------------------------------------------------------------


def test_muon_takes_matrices_and_adamw_the_rest():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    factory = Muon(0.1, adamw=("3.*",), adamw_lr=0.01, weight_decay=0.2)
    optimizer = factory(ours.named_parameters())
    muon = torch.optim.Muon(
        [theirs[2].weight], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    decayed = [theirs[0].weight, theirs[3].weight]
    plain = [theirs[0].bias, theirs[2].bias, theirs[3].bias]
    adamw = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0}], lr=0.01, weight_decay=0.2
    )
    x = torch.randn(5, 2, 1)
    for _ in range(3):
        for model, optimizers in ((ours, [optimizer]), (theirs, [muon, adamw])):
            for one in optimizers:
                one.zero_grad()
            (model(x) ** 2).sum().backward()
            for one in optimizers:
                one.step()
    assert same_state(ours.state_dict(), theirs.state_dict())


def test_rates_and_state_are_shared_by_the_two():
    model = nn.Linear(3, 2)
    optimizer = Muon()(model.named_parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    (model(torch.ones(1, 3)) ** 2).sum().backward()
    assert optimizer.step(lambda: 7) == 7
    assert same_state(model.state_dict(), before)
    other = Muon()(model.named_parameters())
    other.load_state_dict(optimizer.state_dict())
    other.step()
    assert same_state(model.state_dict(), before)  # the rates are restored
    assert set(state_by_name(other, dict(model.named_parameters()))["weight"]) == {
        "momentum_buffer"
    }
    assert float(state_by_name(other, dict(model.named_parameters()))["bias"]["step"]) == 2


# -- groups ---------------------------------------------------------------------------------------


def test_groups_have_their_own_rates_and_decays():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = {
        "1.bias": ParameterGroup(weight_decay=0.3),
        "1.*": ParameterGroup(lr=0.5),
        "0.*": None,
    }
    optimizer = SGD(0.1, 0.0, weight_decay=0.2, groups=groups)(model.named_parameters())
    names = {p: name for name, p in model.named_parameters()}
    made = [(*(names[p] for p in g["params"]), g["lr"], g["weight_decay"])
            for g in optimizer.param_groups]  # fmt: skip
    assert made == [
        ("0.weight", 0.1, 0.2), ("0.bias", 0.1, 0.0), ("1.bias", 0.1, 0.3), ("1.weight", 0.5, 0.2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "groups, message",
    [
        ({"lst.*": {"lr": 1.0}}, "no parameter matches 'lst.*'. The model has: last.weight"),
        ({"*": {"lr": 1.0}, "last.*": {"lr": 2.0}}, "earlier patterns take all that 'last.*'"),
        ({"last.*": {}}, "give lr, weight_decay or both"),
        (
            {"last.*": {"rate": 1.0}},
            "last.*.rate: unknown key. Allowed: lr, weight_decay.",
        ),
        ({"last.*": {"lr": 0}}, "greater than 0"),
    ],
)
def test_bad_groups_are_refused(groups, message, tmp_path):
    node = {**fakes.SGD, "groups": groups}
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        make_trainer(tmp_path, linear(), optimizer=node)
    assert all(problem.startswith("optimizer.groups") for problem in error.value.problems)


def test_patterns_for_adamw_must_match_too(tmp_path):
    node = {"_target_": "neuro.training.optimizers.Muon", "adamw": ["first"]}
    with pytest.raises(ConfigError, match="optimizer.adamw: no parameter matches 'first'"):
        make_trainer(tmp_path, linear(), optimizer=node)


def test_schedules_keep_the_ratio_of_groups(tmp_path):
    node = {**fakes.SGD, "groups": {"last.bias": {"lr": 0.3}}}
    rates = []

    class Rates(Callback):
        def on_step(self, trainer, metrics):
            rates.append([g["lr"] for g in trainer.optimizer.param_groups])

    cosine = {"_target_": "neuro.training.schedules.Cosine", "min_factor": 0.1}
    trainer = make_trainer(
        tmp_path, linear(), optimizer=node, scheduler=cosine, callbacks={"r": Rates()}
    )
    trainer.fit()
    assert len({rate for rate, _ in rates}) > 2
    assert all(own == pytest.approx(3 * rate) for rate, own in rates)


@pytest.mark.parametrize("name", ["RMSprop", "Lion", "Muon", "AdamW"])
def test_resume_and_carry_are_exact(name, tmp_path):
    """Two phases with a parameter group, uninterrupted and resumed in the second phase."""
    node = {
        "_target_": f"neuro.training.optimizers.{name}",
        "groups": {"last.*": {"lr": 0.02, "weight_decay": 0.1}},
    }
    second = {**TWO_PHASES["two"], "optimizer": {"lr": 0.003}}
    phases = {"one": {**TWO_PHASES["one"], "carry": {"optimizer": True}}, "two": second}
    options = {"phases": phases, "optimizer": node, "checkpoint": {"steps": 1}, "keep": 99}
    whole = make_trainer(tmp_path / "whole", linear(hidden=5), **options)
    whole.fit()
    plain = make_trainer(
        tmp_path / "plain",
        linear(hidden=5),
        **{**options, "phases": {"one": TWO_PHASES["one"], "two": second}},
    )
    plain.fit()
    assert not same_state(whole.model.state_dict(), plain.model.state_dict())
    state = checkpoint.load(tmp_path / "whole" / "checkpoints" / "step-00000010.safetensors")
    again = make_trainer(tmp_path / "again", linear(hidden=5, seed=1), state=state, **options)
    again.fit(state)
    assert same_state(whole.model.state_dict(), again.model.state_dict())


def test_what_muon_does_not_carry_over(tmp_path):
    node = {"_target_": "neuro.training.optimizers.Muon"}
    phases = {
        "one": {**TWO_PHASES["one"], "carry": {"optimizer": True}},
        "two": {**TWO_PHASES["two"], "optimizer": {"adamw": ["last.*"]}},
    }
    with pytest.raises(ConfigError, match="cannot take over the state"):
        make_trainer(tmp_path, linear(), phases=phases, optimizer=node)
