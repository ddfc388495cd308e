"""WICC and NOCC: against their equations by hand, scipy, and the step-by-step references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from neuro.ops import NOCCState, SourceKind, nocc, source_function, wicc
from neuro.ops.multipliers import nocc_reference, wicc_reference
from neuro.ops.sources import SOURCES, STATE_DEPENDENT
from tests.ops.checks import Result, result

WICC: dict[str, Any] = {
    "dt": 37.0,
    "gamma_plus": 0.006582,
    "gamma_minus": 1e-3,
    "bias_current": 2.0,
    "phi_y": 0.1,
}
NOCC: dict[str, Any] = {
    "dt": 37.0,
    "alpha": 1.64053,
    "beta": 303.85,
    "beta_out": 91.156,
    "bias_current": 2.1,
    "phi_y": 0.1,
}
CASES = [
    pytest.param(wicc, wicc_reference, WICC, 1, id="wicc"),
    pytest.param(nocc, nocc_reference, NOCC, 3, id="nocc"),
]


def g(kind: SourceKind, phi: float, i: float) -> float:
    point = torch.tensor((phi, i), dtype=torch.float64)
    return source_function(kind, point[0], point[1]).item()


@pytest.mark.parametrize("kind", ["table", "tanh_gauss", "tanh"])
def test_wicc_follows_its_equation(kind: SourceKind) -> None:
    flux = np.random.default_rng(0).uniform(-0.5, 0.5, 40)
    s, by_hand = 0.0, []
    for phi in flux:
        difference = g(kind, phi + 0.1, 2.0 - s) - g(kind, phi - 0.1, 2.0 + s)
        s += 37.0 * (0.006582 * difference - 1e-3 * s)
        by_hand.append(s)
    found = wicc(torch.from_numpy(flux).view(-1, 1, 1), source=kind, **WICC).s_TBN.flatten()
    np.testing.assert_allclose(found, by_hand, rtol=1e-10)


def nocc_slope(kind: SourceKind, phi: float, state: Any) -> Any:
    """The implicit equations: a linear system for (m', s1', s2'), solved by numpy."""
    s1, s2 = state[1:]
    g1 = g(kind, phi + 0.1, np.sqrt((2.1 - s1) ** 2 + 0.01))
    g2 = g(kind, phi - 0.1, np.sqrt((s2 - 2.1) ** 2 + 0.01))
    inductances = [[303.85 + 2 * 91.156, 0, 0], [91.156, 303.85, 0], [91.156, 0, 303.85]]
    return np.linalg.solve(inductances, np.array([g1 - g2, g1, g2]) - 1.64053 * np.array(state))


@pytest.mark.parametrize("kind", ["table", "tanh_gauss", "tanh"])
def test_nocc_follows_its_equations(kind: SourceKind) -> None:
    flux = np.random.default_rng(0).uniform(-0.5, 0.5, 40)
    state, by_hand = np.zeros(3), []
    for phi in flux:
        state = state + 37.0 * nocc_slope(kind, phi, state)
        by_hand.append(state[0])
    found = nocc(torch.from_numpy(flux).view(-1, 1, 1), source=kind, **NOCC)
    np.testing.assert_allclose(found.m_TBN.flatten(), by_hand, rtol=1e-10)
    np.testing.assert_allclose([x.item() for x in found.state], state, rtol=1e-10)


def test_nocc_step_response_is_that_of_the_differential_equations() -> None:
    """Constant flux, a tenth of the default dt: within 1 % of scipy everywhere."""
    times = 3.7 * np.arange(1, 801)
    fine = solve_ivp(
        lambda _, y: nocc_slope("tanh_gauss", 0.3, y),
        (0, times[-1]),
        np.zeros(3),
        rtol=1e-8,
        atol=1e-10,
        t_eval=times,
    )
    flux = torch.full((800, 1, 1), 0.3, dtype=torch.float64)
    found = nocc(flux, source="tanh_gauss", **NOCC | {"dt": 3.7}).m_TBN.flatten().numpy()
    assert np.abs(found - fine.y[0]).max() < 0.01 * np.abs(fine.y[0]).max()


def test_the_outputs_have_the_sign_of_the_product() -> None:
    """phi above 0 increases the effect of phi_y, below 0 reduces it; phi_y = 0 gives 0."""
    flux = torch.tensor([0.15, -0.15, 0.15]).expand(60, 1, 3)
    sign = torch.tensor([0.1, 0.1, -0.1])
    for out in (
        wicc(flux, source="table", **WICC | {"phi_y": sign}).s_TBN,
        nocc(flux, source="table", **NOCC | {"phi_y": sign}).m_TBN,
    ):
        assert out[-1].sign().flatten().tolist() == [1, -1, -1]
    assert not wicc(flux, source="table", **WICC | {"phi_y": 0.0}).s_TBN.any()
    assert not nocc(flux, source="table", **NOCC | {"phi_y": 0.0}).m_TBN.any()


def outcome(
    function: Callable[..., Any],
    defaults: dict[str, Any],
    parts: int,
    kind: SourceKind,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
) -> Result:
    """Outputs and all gradients for the same inputs at each call."""
    torch.manual_seed(0)
    phi = (torch.rand(shape, dtype=dtype) - 0.5).requires_grad_()
    first = [(0.1 * torch.rand(shape[1:], dtype=dtype)).requires_grad_() for _ in range(parts)]
    parameters = {
        name: (value * (1 + 0.1 * torch.rand(shape[2], dtype=dtype))).requires_grad_()
        for name, value in defaults.items()
        if not (name == "bias_current" and kind not in STATE_DEPENDENT)
    }
    parameters["dt"] = torch.tensor(37.0, dtype=dtype, requires_grad=True)
    state: Any = first[0] if parts == 1 else NOCCState(*first)
    inputs = [phi, *first, *parameters.values()]
    arguments = {"bias_current": 2.0} | parameters
    return result(lambda: function(phi, state, source=kind, **arguments), inputs)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(("fused", "reference", "defaults", "parts"), CASES)
def test_whole_sequences_agree_with_the_reference(
    fused: Any, reference: Any, defaults: dict[str, Any], parts: int, kind: SourceKind
) -> None:
    shapes: list[tuple[torch.dtype, tuple[int, int, int], float]] = [
        (torch.float64, (20, 2, 3), 1e-9),
        (torch.float32, (20, 4, 30), 3e-2 if kind == "fitted" else 2e-3),
    ]
    for dtype, shape, tolerance in shapes:
        ours, theirs = (outcome(f, defaults, parts, kind, dtype, shape) for f in (fused, reference))
        for one, other in zip(ours.values, theirs.values, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=min(tolerance, 1e-5))
        for one, other in zip(ours.gradients, theirs.gradients, strict=True):
            assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize(("fused", "_", "defaults", "parts"), CASES)
def test_gradcheck(fused: Any, _: Any, defaults: dict[str, Any], parts: int) -> None:
    names = [name for name in defaults if name != "dt"]
    phi = (torch.rand(4, 2, 3, dtype=torch.float64) - 0.5).requires_grad_()
    values = [
        (defaults[name] * (1 + 0.1 * torch.rand(3, dtype=torch.float64))).requires_grad_()
        for name in names
    ]

    def run(phi: Tensor, *values: Tensor) -> Any:
        out = fused(phi, dt=37.0, source="tanh_gauss", **dict(zip(names, values, strict=True)))
        return out[0], (out[1] if parts == 1 else out[1].s1)

    assert torch.autograd.gradcheck(run, (phi, *values), eps=1e-6, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("fused", "_", "defaults", "parts"), CASES)
def test_chunks_with_carried_state_equal_the_whole(
    fused: Any, _: Any, defaults: dict[str, Any], parts: int
) -> None:
    phi = (torch.rand(12, 2, 3, dtype=torch.float64) - 0.5).requires_grad_()

    def chunked() -> Tensor:
        first = fused(phi[:5], source="table", **defaults)
        return torch.cat((first[0], fused(phi[5:], first[1], source="table", **defaults)[0]))

    ours = result(chunked, (phi,))
    whole = result(lambda: fused(phi, source="table", **defaults)[0], (phi,))
    torch.testing.assert_close(ours.values[0], whole.values[0])
    torch.testing.assert_close(ours.gradients[0], whole.gradients[0])


@pytest.mark.parametrize(("fused", "_", "defaults", "parts"), CASES)
def test_narrow_floats_and_no_gradient(
    fused: Any, _: Any, defaults: dict[str, Any], parts: int
) -> None:
    phi = torch.rand(6, 2, 3).to(torch.bfloat16)
    with torch.inference_mode():
        narrow, full = (fused(x, source="table", **defaults) for x in (phi, phi.float()))
    assert narrow[0].dtype == torch.bfloat16
    assert torch.equal(narrow[0], full[0].to(torch.bfloat16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "tabel"}, "source must be one of.*Did you mean 'table'"),
        ({"phi_y": torch.ones(3)}, r"phi_y must be a scalar or have shape \[4\]; got \[3\]"),
        ({"dt": torch.ones(4)}, r"dt must be a scalar; got \[4\]"),
        ({"phi_TBN": torch.zeros(5, 2, 4).int()}, "phi must be a floating-point sequence"),
    ],
)
@pytest.mark.parametrize(("fused", "_", "defaults", "parts"), CASES)
def test_invalid_arguments_are_explained(
    fused: Any, _: Any, defaults: dict[str, Any], parts: int, changes: Any, message: str
) -> None:
    arguments = {"phi_TBN": torch.zeros(5, 2, 4), "source": "table", **defaults} | changes
    with pytest.raises(ValueError, match=message):
        fused(**arguments)


def test_a_state_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state.s1 must have shape \[2, 4\] to fit phi"):
        zeros = torch.zeros(2, 4)
        nocc(torch.zeros(5, 2, 4), NOCCState(zeros, zeros[:1], zeros), source="table", **NOCC)
    with pytest.raises(ValueError, match=r"s0 must have shape \[2, 4\] to fit phi"):
        wicc(torch.zeros(5, 2, 4), torch.zeros(4), source="table", **WICC)
