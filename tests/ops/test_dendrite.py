"""Dendrites: kernels against the step-by-step reference, solvers, and physics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from neuro.ops import SourceKind, dendrite, dendrite_reference
from neuro.ops.sources import SOURCES, STATE_DEPENDENT
from tests.ops.checks import Result, leaf, result, step_response

DEFAULTS: dict[str, Any] = {
    "dt": 37.0,
    "gamma_plus": 0.006582,
    "gamma_minus": 1e-3,
    "phi_offset": 0.23,
    "bias_current": 1.7,
}
FREE: tuple[SourceKind, ...] = tuple(kind for kind in SOURCES if kind not in STATE_DEPENDENT)


def learnable(
    width: int, dtype: torch.dtype, *, internal: bool, kind: SourceKind
) -> dict[str, Any]:
    """All parameters with an effect on the states, with gradients, near the defaults."""
    parameters: dict[str, Any] = {"dt": torch.tensor(37.0, dtype=dtype).requires_grad_()}
    for name in ("gamma_plus", "gamma_minus", "phi_offset", "bias_current"):
        spread = 1 + 0.1 * torch.rand(width, dtype=dtype)
        parameters[name] = (DEFAULTS[name] * spread).requires_grad_()
    if kind not in STATE_DEPENDENT:
        parameters["bias_current"] = DEFAULTS["bias_current"]
    if internal:
        parameters["internal_NN"] = leaf(width, width, dtype=dtype, scale=0.03)
    return parameters


def flux(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (0.5 * torch.rand(shape, dtype=dtype)).requires_grad_()


def both(
    kind: SourceKind,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    internal: bool = False,
    **more: Any,
) -> tuple[Result, Result]:
    """Outputs of kernel and reference, and gradients of all inputs."""
    phi, s0 = flux(*shape, dtype=dtype), flux(*shape[1:], dtype=dtype)
    parameters = learnable(shape[2], dtype, internal=internal, kind=kind)
    return (
        outcome(partial(dendrite, **more), phi, s0, parameters, kind),
        outcome(dendrite_reference, phi, s0, parameters, kind),
    )


def outcome(
    function: Callable[..., Any],
    phi: Tensor,
    s0: Tensor,
    parameters: dict[str, Any],
    kind: SourceKind,
) -> Result:
    inputs = [phi, s0, *(p for p in parameters.values() if isinstance(p, Tensor))]
    run = partial(function, phi, s0, source=kind, record=("phi", "g"), **parameters)
    return result(run, inputs)


def assert_near(ours: Result, theirs: Result, *, values: float, gradients: float) -> None:
    """Assert values up to an absolute error, and gradients up to one relative to their norm."""
    for one, other in zip(ours.values, theirs.values, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=values)
    for one, other in zip(ours.gradients, theirs.gradients, strict=True):
        assert (one - other).norm() <= gradients * other.norm()


SHAPES = [(7, 3, 5), (1, 2, 3), (30, 64, 80)]


# Slopes of 80 amplify rounding errors at each step, in kernel and reference; rounding into the next
# cell of the table changes the slope.
TOLERANCES = {"fitted": (5e-5, 2e-2), "table": (2e-5, 2e-3)}


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_agrees_with_reference(
    kind: SourceKind, shape: tuple[int, ...], internal: bool
) -> None:
    values, gradients = TOLERANCES.get(kind, (1e-5, 1e-4))
    fused, reference = both(kind, shape, torch.float32, internal=internal)
    assert_near(fused, reference, values=values, gradients=gradients)


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_float64_agrees_with_reference(kind: SourceKind, internal: bool) -> None:
    fused, reference = both(kind, (20, 3, 7), torch.float64, internal=internal)
    assert_near(fused, reference, values=1e-12, gradients=1e-10)


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("kind", STATE_DEPENDENT)
def test_float32_is_as_accurate_as_the_reference(kind: SourceKind, internal: bool) -> None:
    """The kernels' short polynomials do not reduce float32 accuracy, also of gradients."""
    phi, s0 = flux(60, 8, 40), flux(8, 40)
    parameters = learnable(40, torch.float32, internal=internal, kind=kind)
    ours, theirs = (
        outcome(function, phi, s0, parameters, kind) for function in (dendrite, dendrite_reference)
    )
    wide = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
    exact = outcome(
        dendrite_reference,
        phi.detach().double().requires_grad_(),
        s0.detach().double().requires_grad_(),
        wide,
        kind,
    )
    for results in zip(ours, theirs, exact, strict=True):
        for one, other, true in zip(*results, strict=True):
            if true.ndim == 0:
                continue  # the error of a single number is not representative
            error, usual = (one - true).norm(), (other - true).norm()
            assert error < 4 * usual + 1e-6 * true.norm()


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("kind", ["fitted", "tanh_gauss", "telu"])
def test_gradcheck(kind: SourceKind, internal: bool) -> None:
    phi, s0 = flux(5, 2, 3, dtype=torch.float64), flux(2, 3, dtype=torch.float64)
    parameters = learnable(3, torch.float64, internal=internal, kind=kind)
    names = [name for name, value in parameters.items() if isinstance(value, Tensor)]
    fixed = {name: value for name, value in parameters.items() if name not in names}

    def run(phi: Tensor, s0: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        learned = dict(zip(names, values, strict=True))
        out = dendrite(phi, s0, source=kind, record=("phi", "g"), **fixed, **learned)
        return tuple(x for x in out if x is not None)

    inputs = (phi, s0, *(parameters[name] for name in names))
    # dt moves s by 1e-4 per unit and gammas by 1e2: one eps cannot fit both tightly
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", STATE_DEPENDENT)
def test_newton_agrees_with_euler(kind: SourceKind) -> None:
    fused, reference = both(kind, (60, 3, 20), torch.float64, solver="newton")
    assert_near(fused, reference, values=1e-5, gradients=1e-4)


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("shape", SHAPES)
def test_scan_agrees_with_euler(kind: SourceKind, shape: tuple[int, ...]) -> None:
    fused, reference = both(kind, shape, torch.float32, solver="scan")
    assert_near(fused, reference, values=1e-5, gradients=1e-4)


def test_newton_falls_back_to_euler_with_a_warning() -> None:
    """A constant flux just above the onset, where Euler's states oscillate."""
    phi = torch.linspace(0.0, 0.3, 200).view(1, 1, 200).expand(200, 1, 200)
    euler = dendrite(phi, source="table", **DEFAULTS).s_TBN
    message = r"newton did not converge in 15 iterations \(source table, 200 steps.*forward Euler"
    with pytest.warns(RuntimeWarning, match=message):
        newton = dendrite(phi, source="table", solver="newton", **DEFAULTS).s_TBN
    assert torch.equal(newton, euler)


@pytest.mark.parametrize("kind", STATE_DEPENDENT)
@pytest.mark.parametrize("phi", [0.45, 0.5])
def test_step_response_is_that_of_the_differential_equation(kind: SourceKind, phi: float) -> None:
    """Against a fine integration, all deviations as parts of the final state.

    Default dt: 1 % on average and .1 % at the end. In the first 20 steps, where the state rises
    fast, forward Euler is off by up to 6 %; as a method of first order by half as much with half
    the dt, and nowhere by more than 1 % with an eighth of it.
    """

    fine = step_response(kind, phi, 37 / 8 * np.arange(1, 8 * 150 + 1))

    def deviation(parts: int) -> Any:
        constant = torch.full((150 * parts, 1, 1), phi - 0.23, dtype=torch.float64)
        parameters = DEFAULTS | {"dt": 37.0 / parts}
        s = dendrite(constant, source=kind, **parameters).s_TBN.flatten().numpy()
        every = 8 // parts
        return np.abs(s - fine[every - 1 :: every]) / fine[-1]

    default, half, eighth = deviation(1), deviation(2), deviation(8)
    assert default.mean() < 0.01 and default[-1] < 0.001 and default.max() < 0.06
    assert 1.8 < default.max() / half.max() < 2.4
    assert eighth.max() < 0.01


def test_literal_steps() -> None:
    """s1 = 37 * .01 * relu(.5 + .25) = .2775, s2 = .2775 (1 - .037) + 37 * .01 * .25."""
    phi = torch.tensor([0.5, 0.0]).view(2, 1, 1)
    out = dendrite(
        phi,
        dt=37.0,
        gamma_plus=0.01,
        gamma_minus=1e-3,
        phi_offset=0.25,
        bias_current=1.7,
        source="relu",
        record=("phi", "g"),
    )
    torch.testing.assert_close(out.s_TBN.flatten(), torch.tensor([0.2775, 0.3597325]))
    assert out.phi_TBN is not None and out.phi_TBN.flatten().tolist() == [0.75, 0.25]
    assert out.g_TBN is not None and out.g_TBN.flatten().tolist() == [0.75, 0.25]


def test_internal_connections_map_columns_to_rows_with_one_step_delay() -> None:
    phi = torch.zeros(3, 1, 2)
    phi[0, 0, 0] = 1.0
    internal = torch.tensor([[0.0, 0.0], [0.5, 0.0]])  # from dendrite 0 to dendrite 1
    out = dendrite(
        phi,
        dt=1.0,
        gamma_plus=1.0,
        gamma_minus=1.0,
        phi_offset=0.0,
        bias_current=1.7,
        source="relu",
        internal_NN=internal,
    )
    assert out.s_TBN[:, 0].tolist() == [[1, 0], [0, 0.5], [0, 0]]


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("kind", ["fitted", "relu"])
def test_chunks_with_carried_state_equal_the_whole(kind: SourceKind, internal: bool) -> None:
    phi, s0 = flux(12, 3, 5, dtype=torch.float64), flux(3, 5, dtype=torch.float64)
    parameters = learnable(5, torch.float64, internal=internal, kind=kind)
    run = partial(dendrite, source=kind, record=("g",), **parameters)

    def chunked() -> tuple[Tensor, ...]:
        first = run(phi[:5], s0)
        second = run(phi[5:], first.s_BN)
        assert first.g_TBN is not None and second.g_TBN is not None
        return (
            torch.cat((first.s_TBN, second.s_TBN)),
            second.s_BN,
            torch.cat((first.g_TBN, second.g_TBN)),
        )

    assert_near(
        result(chunked, (phi, s0)),
        result(lambda: run(phi, s0), (phi, s0)),
        values=1e-12,
        gradients=1e-10,
    )


@pytest.mark.parametrize("kind", ["table", "tanh"])
@pytest.mark.parametrize("internal", [False, True])
def test_flux_that_is_constant_in_time_gets_the_summed_gradient(
    kind: SourceKind, internal: bool
) -> None:
    step = flux(3, 5, dtype=torch.float64)
    parameters = learnable(5, torch.float64, internal=internal, kind=kind)
    fused, reference = (
        result(
            lambda f=f: f(step.expand(9, 3, 5), source=kind, record=("phi", "g"), **parameters),
            (step,),
        )
        for f in (dendrite, dendrite_reference)
    )
    assert_near(fused, reference, values=1e-12, gradients=1e-10)


def test_only_flux_and_states_are_saved() -> None:
    """Saved tensors of the size of the sequence are the flux and the states only."""
    phi = flux(50, 4, 64)
    out = dendrite(phi, source="fitted", **DEFAULTS)
    saved: Any = out.s_TBN.grad_fn
    while not hasattr(saved, "saved_tensors"):
        saved = saved.next_functions[0][0]
    large = [x for x in saved.saved_tensors if x.numel() == phi.numel()]
    assert {x.data_ptr() for x in large} == {phi.data_ptr(), out.s_TBN.data_ptr()}
    assert sum(x.numel() for x in saved.saved_tensors) == 2 * phi.numel() + 5 * 4 * 64


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("place", ["phi", "bias_current"])
def test_nan_is_propagated(kind: SourceKind, place: str) -> None:
    """The bit operations of the kernels keep NaN, so that divergence can be detected."""
    phi, bias = torch.full((4, 1, 3), 0.3), torch.full((3,), 1.7)
    if place == "phi":
        phi[1, 0, 1] = torch.nan
    else:
        bias[1] = torch.nan
    out = dendrite(phi, source=kind, **DEFAULTS | {"bias_current": bias}).s_TBN
    lost = kind not in STATE_DEPENDENT and place == "bias_current"  # there it is not used
    assert out[2:, 0, 1].isnan().all() != lost
    assert not out[:, 0, [0, 2]].isnan().any()


@pytest.mark.parametrize("kind", ["fitted", "tanh"])
def test_narrow_floats_are_computed_in_float32(kind: SourceKind) -> None:
    phi = flux(20, 3, 40).detach().to(torch.bfloat16)
    narrow, full = (dendrite(x, source=kind, **DEFAULTS) for x in (phi, phi.float()))
    assert narrow.s_TBN.dtype == torch.bfloat16
    assert narrow.s_BN.dtype == torch.float32
    assert torch.equal(narrow.s_BN, full.s_BN)


def test_without_gradients_values_are_equal_and_inputs_not_mutated() -> None:
    phi, s0 = flux(9, 3, 5), flux(3, 5)
    copies = phi.detach().clone(), s0.detach().clone()
    with torch.inference_mode():
        out = dendrite(phi, s0, source="table", **DEFAULTS)
    same = dendrite(phi, s0, source="table", **DEFAULTS)
    assert out.phi_TBN is None and out.g_TBN is None
    assert torch.equal(out.s_TBN, same.s_TBN)
    assert torch.equal(phi, copies[0]) and torch.equal(s0, copies[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phi_TBN": torch.zeros(5, 4)}, r"phi must have shape \[T, B, N\]; got \[5, 4\]"),
        ({"phi_TBN": torch.zeros(5, 2, 4).int()}, "phi must be a floating-point sequence"),
        ({"s0_BN": torch.zeros(3, 4)}, r"s0 must have shape \[2, 4\]"),
        ({"dt": 0.0}, "dt must be above 0; got 0.0"),
        ({"dt": torch.ones(4)}, r"dt must be a scalar; got a tensor of shape \[4\]"),
        ({"gamma_plus": torch.ones(3)}, r"gamma_plus must be a scalar or have shape \[4\]"),
        ({"phi_offset": torch.ones(3)}, r"phi_offset must be a scalar or have shape \[4\]"),
        ({"source": "tabel"}, "source must be one of fitted.*Did you mean 'table'"),
        ({"solver": "rk4"}, "solver must be one of euler, scan, newton; got 'rk4'"),
        ({"record": ("s",)}, "record must be one of phi, g; got 's'"),
        ({"solver": "scan"}, r"scan needs a source that does not depend.*tanh, relu.*got 'fitted'"),
        ({"solver": "newton", "source": "relu"}, "newton needs a source that depends on the state"),
        (
            {"solver": "newton", "internal_NN": torch.zeros(4, 4)},
            "internal connections need solver euler; got 'newton'",
        ),
        ({"internal_NN": torch.zeros(3, 4)}, r"internal must have shape \[4, 4\]"),
    ],
)
def test_invalid_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"phi_TBN": torch.zeros(5, 2, 4), "source": "fitted", **DEFAULTS}
    with pytest.raises(ValueError, match=message):
        dendrite(**arguments | changes)


def test_polynomials_have_the_documented_accuracy() -> None:
    from neuro.ops.kernels import dendrite as kernels

    def largest(function: Any, x: NDArray[np.float32], exact: Any) -> Any:
        found = np.empty_like(x)
        looped(function)(x, found)
        return np.abs(found - exact(x.astype(np.float64)))

    def looped(function: Any) -> Any:
        @njit
        def loop(x, found):
            for n in range(x.size):
                found[n] = function(x[n])

        return loop

    x = np.linspace(-120, 120, 200_001, dtype=np.float32)
    assert (largest(kernels._exp2, x, np.exp2) / np.exp2(x.astype(np.float64))).max() < 2e-7
    turn = np.linspace(1e-6, 0.5, 100_001, dtype=np.float32)
    sine = np.sin(np.pi * turn.astype(np.float64))
    assert (largest(kernels._sin_pi, turn, lambda v: np.sin(np.pi * v)) / sine).max() < 2e-7
    y = np.exp2(x)
    size = np.maximum(np.abs(np.log2(y.astype(np.float64))), 2)
    assert (largest(kernels._log2, y, np.log2) / size).max() < 1e-7
