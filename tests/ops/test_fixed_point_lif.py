"""Integer neurons for training: exact forward pass, straight-through backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neuro.ops.dual_lif import DualLIFState
from neuro.ops.fixed_point import DECAY_UNITY
from neuro.ops.fixed_point_lif import fixed_point_dual_lif, fixed_point_lif
from neuro.ops.integer_lif import integer_dual_lif, integer_lif
from neuro.ops.surrogate import Surrogate, spike

SURROGATES = [Surrogate("fast_sigmoid", 10.0), Surrogate("atan", 2.0)]
UNIT = torch.tensor(0.004)
VTH = 120
THETA = (64 * VTH + 1) * float(UNIT) / 64


def sums(seed: int = 0, shape: tuple[int, ...] = (25, 3, 7)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-60, 90, shape, generator=generator).float().requires_grad_()


def through(value: Tensor, integer: Tensor) -> Tensor:
    """The membrane potential represented by the integers, with the gradient of the real one."""
    return value + ((integer.float() * UNIT / 64) - value).detach()


def by_hand(
    currents: list[Tensor],
    membranes: list[Tensor],
    dv: tuple[int, ...],
    surrogate: Surrogate,
    gamma: Tensor | None,
    zero: bool,
) -> Tensor:
    """Spikes with autograd, step by step, at the membrane potentials of the integers."""
    v = [torch.zeros_like(currents[0][0]) for _ in currents]
    spikes = []
    for t in range(len(currents[0])):
        m = [
            through((1 - d / DECAY_UNITY) * before + current[t] * UNIT, membrane[t])
            for d, before, current, membrane in zip(dv, v, currents, membranes, strict=True)
        ]
        if gamma is not None:
            s = spike(gamma * m[0] + (1 - gamma) * m[1] - THETA, surrogate)
            fired = [s.detach()] * 2
        else:
            each = [spike(x - THETA, surrogate) for x in m]
            s = 1 - torch.stack([1 - e for e in each]).prod(0)
            fired = [e.detach() for e in each]
        spikes.append(s)
        pairs = zip(m, fired, strict=True)
        v = [x * (1 - f) if zero else x - THETA * f for x, f in pairs]
    return torch.stack(spikes)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_lif(reset: str, surrogate: Surrogate) -> None:
    x = sums()
    out = fixed_point_lif(x, unit=UNIT, dv=300, vth=VTH, reset=reset, surrogate=surrogate)
    exact = integer_lif(x, dv=300, vth=VTH, reset=reset, record_membrane=True)
    assert exact.membrane is not None
    assert torch.equal(out.spikes, exact.spikes.float())
    assert 0.02 < out.spikes.mean() < 0.9
    torch.testing.assert_close(out.membrane, exact.membrane * UNIT / 64)
    torch.testing.assert_close(out.v, exact.state.v * UNIT / 64)

    weight = torch.randn(out.spikes.shape, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((out.spikes * weight).sum(), x)
    expected = by_hand([x], [exact.membrane], (300,), surrogate, None, reset == "zero")
    assert torch.equal(expected, out.spikes)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(grad, wanted)
    assert grad.abs().max() > 0


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("merge", ["gate", "or"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_dual_lif(merge: str, reset: str, surrogate: Surrogate) -> None:
    fast, slow = sums(0), sums(1)
    gamma = None
    if merge == "gate":  # multiples of 1/256 avoid rounding
        gamma = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.75, 0.125, 0.625], requires_grad=True)
    dv = 900, 40
    out = fixed_point_dual_lif(
        fast,
        slow,
        unit=UNIT,
        dv_fast=dv[0],
        dv_slow=dv[1],
        vth=VTH,
        gamma=gamma,
        merge=merge,
        reset=reset,
        surrogate=surrogate,
    )
    exact = integer_dual_lif(
        fast,
        slow,
        dv_fast=dv[0],
        dv_slow=dv[1],
        vth=VTH,
        gamma=None if gamma is None else (gamma.detach() * 256).long(),
        merge=merge,
        reset=reset,
        record_membranes=True,
    )
    assert exact.fast_membrane is not None and exact.slow_membrane is not None
    assert torch.equal(out.spikes, exact.spikes.float())
    assert 0.02 < out.spikes.mean() < 0.9
    assert torch.equal(out.fast_spikes, (exact.fast_membrane > 64 * VTH).float())
    torch.testing.assert_close(out.slow_rate, (exact.slow_membrane > 64 * VTH).float().mean(0))

    weight = torch.randn(out.spikes.shape, generator=torch.Generator().manual_seed(2))
    inputs = [fast, slow] if gamma is None else [fast, slow, gamma]
    grads = torch.autograd.grad((out.spikes * weight).sum(), inputs)
    membranes = [exact.fast_membrane, exact.slow_membrane]
    expected = by_hand([fast, slow], membranes, dv, surrogate, gamma, reset == "zero")
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for grad, want in zip(grads, wanted, strict=True):
        # the merged membrane is rounded toward zero: less than one integer
        torch.testing.assert_close(grad, want, rtol=2e-3, atol=2e-3)
        assert grad.abs().max() > 0


def test_a_sequence_can_be_split() -> None:
    x = sums(shape=(30, 2, 5)).detach()
    options = {"unit": UNIT, "dv": 100, "vth": VTH, "reset": "subtract"}
    whole = fixed_point_lif(x, surrogate=SURROGATES[0], **options)
    first = fixed_point_lif(x[:13], surrogate=SURROGATES[0], **options)
    second = fixed_point_lif(x[13:], first.v, surrogate=SURROGATES[0], **options)
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
    assert torch.equal(second.v, whole.v)


def test_a_dual_sequence_can_be_split() -> None:
    fast, slow = (sums(seed, (30, 2, 5)).detach() for seed in (0, 1))
    options = {
        "unit": UNIT,
        "dv_fast": 500,
        "dv_slow": 20,
        "vth": VTH,
        "gamma": None,
        "merge": "or",
        "reset": "zero",
        "surrogate": SURROGATES[0],
    }
    whole = fixed_point_dual_lif(fast, slow, **options)
    first = fixed_point_dual_lif(fast[:9], slow[:9], **options)
    assert isinstance(first.state, DualLIFState)
    second = fixed_point_dual_lif(fast[9:], slow[9:], first.state, **options)
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
