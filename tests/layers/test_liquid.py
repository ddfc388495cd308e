"""CfC and LTC against their authors' package ncps; wirings, states and causality."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from neuro.layers.liquid import CfC, CfCMode, LiquidState
from neuro.layers.ltc import LTC
from neuro.layers.wiring import AutoNCP, FullyConnected, Wiring

INPUTS, UNITS, OUTPUTS = 6, 18, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def ncps() -> ModuleType:
    pytest.importorskip("ncps")
    return pytest.importorskip("ncps.torch")


def their_wiring(full: bool) -> Any:
    """A wiring of ncps, built for INPUTS."""
    import ncps.wirings as wirings

    wiring = wirings.FullyConnected(UNITS) if full else wirings.AutoNCP(UNITS, OUTPUTS)
    wiring.build(INPUTS)
    return wiring


def as_ours(wiring: Any) -> Wiring:
    layers = [wiring.get_neurons_of_layer(i) for i in range(wiring.num_layers)]
    return Wiring(
        torch.from_numpy(wiring.sensory_adjacency_matrix).float(),
        torch.from_numpy(wiring.adjacency_matrix).float(),
        tuple(range(layer[0], layer[-1] + 1) for layer in layers),
        wiring.output_dim,
    )


def assert_equal_networks(
    ours: nn.Module, theirs: nn.Module, rename: Callable[[str], str], timed: bool = False
) -> None:
    """Assert equal values, states and gradients, with parameters of ncps mapped by `rename`."""
    others = dict(theirs.named_parameters())
    pairs = {name: others[rename(name)] for name, _ in ours.named_parameters()}
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(pairs[name].view(parameter.shape))
    x = torch.randn(7, 3, INPUTS)
    # ncps broadcasts elapsed times along the wrong dimension unless they are [1, T, 1]
    times = torch.rand(7, 1).expand(7, 3) + 0.5 if timed else None
    y, state = ours(x, None, times)
    if times is None:
        y_theirs, state_theirs = theirs(x.transpose(0, 1))
    else:
        y_theirs, state_theirs = theirs(x.transpose(0, 1), None, times[:, :1].T[..., None])
    torch.testing.assert_close(y, y_theirs.transpose(0, 1), rtol=1e-5, atol=1e-5)
    last = state_theirs if isinstance(state_theirs, tuple) else (state_theirs,)
    for a, b in zip(state, last, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    found = torch.autograd.grad((y * weight).sum(), list(ours.parameters()))
    expected = torch.autograd.grad((y_theirs.transpose(0, 1) * weight).sum(), list(pairs.values()))
    for a, b in zip(found, expected, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a, b.view(a.shape), rtol=0, atol=1e-5 * scale + 1e-9)


def cfc_name(wired: bool) -> Callable[[str], str]:
    """A function from our parameters' names to those of ncps."""

    def rename(name: str) -> str:
        name = name.replace("memory.", "lstm.")
        cell = r"rnn_cell.layer_\1." if wired else "rnn_cell."
        name = re.sub(r"^cells\.(\d+)\.", cell, name)
        # there is an activation between two linear maps
        return re.sub(r"backbone\.(\d+)", lambda m: f"backbone.{2 * int(m[1])}", name)

    return rename


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
@pytest.mark.parametrize(
    ("layers", "activation"), [(1, "lecun_tanh"), (1, "relu"), (2, "tanh"), (0, "lecun_tanh")]
)
def test_cfc_equals_ncps(ncps: ModuleType, mode: CfCMode, layers: int, activation: str) -> None:
    settings = {"backbone_units": 24, "backbone_layers": layers, "activation": activation}
    theirs = ncps.CfC(INPUTS, UNITS, mode=mode, **settings)
    ours = CfC(INPUTS, UNITS, mode, **settings)
    assert_equal_networks(ours, theirs, cfc_name(wired=False))


@pytest.mark.parametrize("mode", ["default", "pure"])
def test_elapsed_times_equal_ncps(ncps: ModuleType, mode: CfCMode) -> None:
    theirs, ours = ncps.CfC(INPUTS, UNITS, mode=mode), CfC(INPUTS, UNITS, mode)
    assert_equal_networks(ours, theirs, cfc_name(wired=False), timed=True)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
def test_wired_cfc_equals_ncps(ncps: ModuleType, full: bool, mode: CfCMode) -> None:
    wiring = their_wiring(full)
    theirs = ncps.CfC(INPUTS, wiring, mode=mode)
    ours = CfC(INPUTS, UNITS, mode, as_ours(wiring))
    assert_equal_networks(ours, theirs, cfc_name(wired=True))


@pytest.mark.parametrize("wired", [False, True])
def test_mixed_memory_equals_ncps(ncps: ModuleType, wired: bool) -> None:
    wiring = their_wiring(full=False) if wired else None
    theirs = ncps.CfC(INPUTS, wiring or UNITS, mixed_memory=True)
    ours = CfC(INPUTS, UNITS, wiring=as_ours(wiring) if wired else None, mixed_memory=True)
    assert_equal_networks(ours, theirs, cfc_name(wired))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_ltc_equals_ncps(ncps: ModuleType, full: bool, timed: bool) -> None:
    wiring = their_wiring(full)
    theirs = ncps.LTC(INPUTS, wiring)
    assert_equal_networks(LTC(as_ours(wiring)), theirs, lambda name: f"rnn_cell.{name}", timed)


def networks() -> dict[str, CfC | LTC]:
    """Small networks of every kind."""
    ncp = AutoNCP(OUTPUTS).make(INPUTS, UNITS)
    return {
        **{mode: CfC(INPUTS, UNITS, mode) for mode in ("default", "no_gate", "pure")},
        "wired": CfC(INPUTS, UNITS, wiring=ncp),
        "mixed": CfC(INPUTS, UNITS, mixed_memory=True),
        "ltc": LTC(ncp),
        "full ltc": LTC(FullyConnected().make(INPUTS, UNITS)),
    }


@pytest.mark.parametrize("kind", networks())
def test_one_step_at_a_time_equals_the_sequence(kind: str) -> None:
    network, x = networks()[kind], torch.randn(6, 2, INPUTS)
    times = torch.rand(6, 2) + 0.5
    whole, last = network(x, None, times)
    state, outputs = network.initial_state(2), []
    for t in range(6):
        y, state = network(x[t : t + 1], state, times[t : t + 1])
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs), whole, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(state, last, strict=True):
        assert ours is None or ours.shape[0] == 2
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", networks())
def test_is_causal(kind: str) -> None:
    network, x = networks()[kind], torch.randn(6, 2, INPUTS)
    changed = x.clone()
    changed[3] += 1
    before, after = network(x)[0], network(changed)[0]
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3], after[3])


@pytest.mark.parametrize(
    ("inputs", "units", "outputs", "sparsity"), [(6, 18, 4, 0.5), (1, 4, 1, 0.9), (9, 64, 20, 0.1)]
)
def test_circuit_policies_connect_every_unit(
    inputs: int, units: int, outputs: int, sparsity: float
) -> None:
    wiring = AutoNCP(outputs, sparsity).make(inputs, units)
    inter, command, motor = wiring.layers
    assert sorted([*inter, *command, *motor]) == list(range(units))
    assert list(motor) == list(range(outputs))
    sensory, recurrent = wiring.sensory, wiring.recurrent
    assert sensory[:, list(inter)].any(0).all() and sensory[:, list(inter)].any(1).all()
    assert not sensory[:, [*command, *motor]].any()
    assert recurrent[list(inter)][:, list(command)].any(0).all()
    assert recurrent[list(command)][:, list(motor)].any(0).all()
    assert not recurrent[list(inter)][:, list(motor)].any() and not recurrent[list(motor)].any()
    again = AutoNCP(outputs, sparsity).make(inputs, units)
    assert torch.equal(again.recurrent, recurrent) and torch.equal(again.sensory, sensory)
    other = AutoNCP(outputs, sparsity, seed=1).make(inputs, units)
    assert units < 10 or not torch.equal(other.recurrent, recurrent)


def test_invalid_wirings_are_explained() -> None:
    with pytest.raises(ValueError, match="outputs: got 6; a neural circuit policy of 8 units has "):
        AutoNCP(6).make(3, 8)
    with pytest.raises(ValueError, match="outputs: got 9; a wiring of 8 units"):
        FullyConnected(9).make(3, 8)
    with pytest.raises(ValueError, match="wiring: got one of 3 inputs and 8 units; expected 4 and"):
        CfC(4, 8, wiring=AutoNCP(2).make(3, 8))


def test_gradients_reach_elapsed_times_and_states() -> None:
    network = CfC(INPUTS, UNITS)
    times = torch.ones(3, 2, UNITS, requires_grad=True)
    state = network.initial_state(2)
    state.h.requires_grad_()
    y, _ = network(torch.randn(3, 2, INPUTS), state, times)
    for gradient in torch.autograd.grad(y.square().sum(), (times, state.h)):
        assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_an_elapsed_time_of_zero_keeps_the_state_of_an_ltc() -> None:
    """Padding has an elapsed time of zero; gradients are finite."""
    ltc = LTC(FullyConnected().make(2, 4))
    x, state = torch.rand(3, 5, 2), LiquidState(torch.rand(5, 4), None)
    y, after = ltc(x, state, torch.zeros(3, 5))
    torch.testing.assert_close(after.h, state.h)
    y.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in ltc.parameters())


def test_elapsed_times_default_to_one() -> None:
    for name, network in networks().items():
        x = torch.randn(4, 2, INPUTS)
        ours, theirs = network(x)[0], network(x, None, torch.ones(4, 2))[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
