"""Neurons with two variables and recurrence: kernel against definition, snntorch, closed forms."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from neuro.ops import (
    Dynamics,
    NeuronState,
    Reset,
    Surrogate,
    SurrogateKind,
    dual_lif,
    lif,
    neurons,
    neurons_reference,
)
from tests.ops.checks import Result, leaf, result

KINDS = ("leaky", "current_based", "adaptive_threshold", "adaptive", "symplectic", "dual")


def made(kind: str, units: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Any]:
    """Learnable coefficients of each neuron, and a function that makes its dynamics."""

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(units, dtype=dtype)).requires_grad_()

    if kind in ("adaptive", "symplectic"):
        given = [uniform(0.8, 0.95), uniform(0.9, 0.99), uniform(0, 1), uniform(0, 2)]
        return given, partial(Dynamics.adaptive, *given, symplectic=kind == "symplectic")
    ranges = {
        "leaky": [(0.8, 0.95)],
        "current_based": [(0.5, 0.9), (0.8, 0.95)],
        "adaptive_threshold": [(0.8, 0.95), (0.9, 0.99), (0.1, 1.8)],
        "dual": [(0.5, 0.8), (0.9, 0.99), (0.1, 0.9)],
    }
    given = [uniform(*bounds) for bounds in ranges[kind]]
    return given, partial(getattr(Dynamics, kind), *given)


def both(
    kind: str, shape: tuple[int, int, int], *, recurrent: bool, **options: Any
) -> tuple[Result, Result]:
    """Values and gradients of the kernel and of the reference."""
    _, batch, units = shape
    given, dynamics = made(kind, units)
    groups = 2 if kind == "dual" else 1
    currents = [leaf(*shape, scale=0.5) for _ in range(groups)]
    weights = leaf(groups * units, units, scale=0.5 / units**0.5) if recurrent else None
    spiked = (torch.rand(batch, units) < 0.3).float().requires_grad_()
    state = NeuronState(leaf(batch, units), leaf(batch, units, scale=0.1), spiked)
    inputs = [*currents, *given, *state, *([weights] if weights is not None else [])]

    def run(function: Any) -> tuple[Tensor, ...]:
        out = function(
            currents[0],
            state,
            dynamics=dynamics(),
            threshold=0.7,
            recurrent_MN=weights,
            slow_current_TBN=currents[1] if groups == 2 else None,
            **({"record_membrane": True} | options),
        )
        return out.spikes_TBN, out.state.v, out.state.w, out.membrane_TBN

    fused, reference = (result(partial(run, f), inputs) for f in (neurons, neurons_reference))
    assert shape[0] * shape[1] == 1 or 0.02 < fused.values[0].mean() < 0.6
    return fused, reference


def assert_close(fused: Result, reference: Result) -> None:
    """Assert equal spikes, and other values and gradients up to the order of summation."""
    assert torch.equal(fused.values[0], reference.values[0])
    pairs = [
        *zip(fused.values[1:], reference.values[1:], strict=True),
        *zip(fused.gradients, reference.gradients, strict=True),
    ]
    for ours, theirs in pairs:
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-5 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("reset", get_args(Reset))
def test_agrees_with_reference(kind: str, recurrent: bool, reset: Reset) -> None:
    fused, reference = both(kind, (9, 5, 70), recurrent=recurrent, reset=reset)
    assert_close(fused, reference)
    if not recurrent:  # no sums, so that values are bit-identical
        for ours, theirs in zip(fused.values, reference.values, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", get_args(SurrogateKind))
@pytest.mark.parametrize("recurrent", [False, True])
def test_agrees_for_every_surrogate(kind: SurrogateKind, recurrent: bool) -> None:
    assert_close(*both("leaky", (8, 3, 20), recurrent=recurrent, surrogate=Surrogate(kind, 3.0)))


@pytest.mark.parametrize(
    ("shape", "recurrent"),
    [
        ((1, 1, 1), True),
        ((40, 70, 130), True),
        ((300, 2, 16), True),
        ((1, 1, 1), False),
        ((40, 70, 130), False),
        ((4, 21, 4100), False),
    ],
)
def test_agrees_for_sizes_that_need_several_groups_threads_and_vectors(
    shape: tuple[int, int, int], recurrent: bool
) -> None:
    torch.manual_seed(4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_close(*both("symplectic", shape, recurrent=recurrent))
    finally:
        torch.set_num_threads(threads)


def test_float64_passes_gradcheck_where_nothing_spikes() -> None:
    given, _ = made("symplectic", 3, torch.float64)
    make = partial(leaf, dtype=torch.float64)

    def smooth(current: Tensor, v: Tensor, w: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        state = NeuronState(v, w, torch.zeros_like(v))
        out = neurons(
            current,
            state,
            dynamics=Dynamics.adaptive(*coefficients, symplectic=True),
            threshold=100.0,
            record_membrane=True,
        )
        assert out.membrane_TBN is not None
        return out.state.v, out.state.w, out.membrane_TBN

    assert torch.autograd.gradcheck(smooth, (make(5, 2, 3), make(2, 3), make(2, 3), *given))


def test_leaky_neurons_equal_lif() -> None:
    current = leaf(30, 4, 20, scale=0.4)
    ours, theirs = (
        result(lambda call=call: call().spikes_TBN, [current])
        for call in (
            partial(neurons, current, dynamics=Dynamics.leaky(0.9), threshold=0.7),
            partial(lif, current, decay=0.9, threshold=0.7),
        )
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("reset", get_args(Reset))
def test_dual_neurons_equal_dual_lif(reset: Reset) -> None:
    fast, slow = leaf(30, 4, 20, scale=0.4), leaf(30, 4, 20, scale=0.4)
    gamma = torch.rand(20).requires_grad_()
    dynamics = Dynamics.dual(0.7, 0.95, gamma)
    common: dict[str, Any] = {"threshold": 0.7, "reset": reset}
    ours = result(
        lambda: neurons(fast, dynamics=dynamics, slow_current_TBN=slow, **common).spikes_TBN,
        [fast, slow, gamma],
    )
    theirs = result(
        lambda: dual_lif(fast, slow, decay_fast=0.7, decay_slow=0.95, gamma=gamma, **common).spikes,
        [fast, slow, gamma],
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["leaky", "current_based"])
def test_recurrent_neurons_agree_with_snntorch_with_gradients(kind: str) -> None:
    """The reset is applied here after each step; its own comes a step later without leak."""
    snntorch = pytest.importorskip("snntorch")
    units = 30
    options = {
        "beta": 0.9,
        "threshold": 1.0,
        "linear_features": units,
        "reset_mechanism": "none",
        "spike_grad": snntorch.surrogate.fast_sigmoid(slope=10),
    }
    cells = {"leaky": snntorch.RLeaky, "current_based": partial(snntorch.RSynaptic, alpha=0.7)}
    cell = cells[kind](**options)
    cell.recurrent.bias = None
    weights = cell.recurrent.weight
    current = (0.3 * torch.rand(40, 4, units)).requires_grad_()

    def theirs() -> Tensor:
        zeros = torch.zeros(4, units)
        s, i, v = zeros, zeros, zeros
        spikes = []
        for step in current:
            if kind == "leaky":
                s, v = cell(step, s, v)
            else:
                s, i, v = cell(step, s, i, v)
            spikes.append(s)
            v = v - s.detach()
        return torch.stack(spikes)

    dynamics = Dynamics.leaky(0.9) if kind == "leaky" else Dynamics.current_based(0.7, 0.9)
    ours = result(
        lambda: neurons(current, dynamics=dynamics, threshold=1.0, recurrent_MN=weights).spikes_TBN,
        [current, weights],
    )
    assert 0.05 < ours.values[0].mean() < 0.6
    assert_close(ours, result(theirs, [current, weights]))


def test_current_based_neuron_responds_with_two_exponentials() -> None:
    a, b, steps = 0.7, 0.9, 20
    pulse = torch.zeros(steps, 1, 1)
    pulse[0] = 1.0
    out = neurons(
        pulse, dynamics=Dynamics.current_based(a, b), threshold=100.0, record_membrane=True
    )
    t = torch.arange(1, steps + 1)
    assert out.membrane_TBN is not None
    torch.testing.assert_close(out.membrane_TBN.flatten(), (b**t - a**t) / (b - a))


def test_threshold_rises_with_every_spike() -> None:
    """With a current of theta + 0.5 and no leak of w, spikes end when beta n / 10 > 0.5."""
    dynamics = Dynamics(0.0, w_leak=1.0, w_from_s=0.1, read_w=-1.0)
    out = neurons(torch.full((12, 1, 1), 1.45), dynamics=dynamics, threshold=1.0)
    assert out.spikes_TBN.flatten().tolist() == [1.0] * 5 + [0.0] * 7


def test_adaptation_settles_at_its_fixed_point() -> None:
    """Without spikes: v = x / (1 + a), w = a v; x is (1 - decay) times the current."""
    a, decay = 0.5, 0.9
    for symplectic in (False, True):
        dynamics = Dynamics.adaptive(decay, 0.95, a, 1.0, symplectic=symplectic)
        current = torch.full((600, 1, 1), (1 - decay) * 0.9)
        out = neurons(current, dynamics=dynamics, threshold=1.0)
        assert not out.spikes_TBN.any()
        assert out.state.v.item() == pytest.approx(0.9 / (1 + a), abs=1e-5)
        assert out.state.w.item() == pytest.approx(a * 0.9 / (1 + a), abs=1e-5)


def test_symplectic_euler_is_stable_where_forward_euler_is_not() -> None:
    """The squared modulus of the eigenvalues is d_v d_w + (1 - d_v)(1 - d_w) a, above 1 for this a.

    With the symplectic step it is d_v d_w (Baronig et al. 2024).
    """
    kick = torch.zeros(400, 1, 1)
    kick[0] = 1e-3
    size = {}
    for symplectic in (False, True):
        dynamics = Dynamics.adaptive(0.98, 0.98, 300.0, 0.0, symplectic=symplectic)
        out = neurons(kick, dynamics=dynamics, threshold=1e6)
        size[symplectic] = out.state.v.abs().item()
    assert size[True] < 1e-3 < size[False]


def test_recurrent_spikes_arrive_one_step_later() -> None:
    """A chain of neurons in which each excites the next."""
    units = 6
    weights = torch.diag(torch.ones(units - 1), -1)
    start = torch.zeros(units, 1, units)
    start[0, 0, 0] = 1.0
    out = neurons(start, dynamics=Dynamics.leaky(0.0), threshold=1.0, recurrent_MN=weights)
    assert torch.equal(out.spikes_TBN[:, 0], torch.eye(units))


@pytest.mark.parametrize("kind", ["leaky", "dual"])
def test_parts_equal_the_whole(kind: str) -> None:
    _, dynamics = made(kind, 20)
    weights = 0.2 * torch.randn(40 if kind == "dual" else 20, 20)
    current, slow = torch.randn(2, 12, 3, 20)

    def run(start: int, stop: int, state: NeuronState | None) -> Any:
        return neurons(
            current[start:stop],
            state,
            dynamics=dynamics(),
            threshold=0.7,
            recurrent_MN=weights,
            slow_current_TBN=slow[start:stop] if kind == "dual" else None,
        )

    first = run(0, 5, None)
    copies = [x.clone() for x in first.state]
    second, whole = run(5, 12, first.state), run(0, 12, None)
    assert torch.equal(torch.cat((first.spikes_TBN, second.spikes_TBN)), whole.spikes_TBN)
    for x, y in zip(second.state, whole.state, strict=True):
        assert torch.equal(x, y)
    for x, y in zip(first.state, copies, strict=True):  # a given state is not changed
        assert torch.equal(x, y)


@pytest.mark.parametrize("recurrent", [False, True])
def test_constant_current_gets_the_summed_gradient(recurrent: bool) -> None:
    step = leaf(3, 20)
    weights = 0.1 * torch.randn(20, 20) if recurrent else None
    options = {"dynamics": Dynamics.leaky(0.9), "threshold": 0.7, "recurrent_MN": weights}
    ours, theirs = (
        result(lambda f=f: f(step.expand(12, 3, 20), **options).spikes_TBN, [step])
        for f in (neurons, neurons_reference)
    )
    assert_close(ours, theirs)


LEAKY = Dynamics.leaky(0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current_TBN": torch.zeros(5, 4)}, r"current must be \[T, B, N\]; got \[5, 4\]"),
        ({"threshold": 0.0}, "threshold must be above 0; got 0.0"),
        ({"threshold": torch.ones(3)}, r"a scalar or have shape \[4\]; got \[3\]"),
        ({"threshold": torch.ones(4, requires_grad=True)}, "threshold has no gradient"),
        ({"reset": "hard"}, "reset must be one of subtract, zero; got 'hard'"),
        ({"dynamics": Dynamics.leaky(torch.ones(3))}, r"dynamics.v_leak must be .* \[4\]; got"),
        ({"dynamics": Dynamics.dual(0.5, 0.9, 0.5)}, "slow_current is for dynamics with into="),
        ({"recurrent_MN": torch.zeros(4, 5)}, r"recurrent must have shape \[4, 4\]"),
        (
            {"state": NeuronState(*torch.zeros(3, 3, 4))},
            r"state.v must have shape \[2, 4\] to fit the input; got \[3, 4\]",
        ),
    ],
)
def test_bad_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    options = {"current_TBN": torch.zeros(5, 2, 4), "dynamics": LEAKY, "threshold": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        neurons(**options)
