"""Surrogate derivatives and the step-wise spike."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from neuro.ops import Surrogate, SurrogateKind, spike, surrogate_derivative

KINDS = get_args(SurrogateKind)
X = torch.tensor([-1.0, -0.25, 0.0, 0.25, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fast_sigmoid", [1 / 9, 1 / 2.25, 1, 1 / 2.25, 1 / 9]),
        ("atan", [1 / (1 + (math.pi * x) ** 2) for x in X.tolist()]),
        ("triangle", [0, 0.5, 1, 0.5, 0]),
        ("sigmoid", [0.5 / math.cosh(x) ** 2 for x in X.tolist()]),
    ],
)
def test_derivative_is_the_documented_formula(kind: SurrogateKind, expected: list[float]) -> None:
    derivative = surrogate_derivative(X, Surrogate(kind, slope=2))
    torch.testing.assert_close(derivative, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_derivative_stays_finite_far_from_threshold(kind: SurrogateKind) -> None:
    derivative = surrogate_derivative(torch.tensor([-1e4, 1e4]), Surrogate(kind, slope=100))
    assert torch.isfinite(derivative).all()


@pytest.mark.parametrize("kind", KINDS)
def test_spike_is_a_step_with_the_surrogate_as_gradient(kind: SurrogateKind) -> None:
    x = X.clone().requires_grad_()
    spikes = spike(x, Surrogate(kind))
    assert spikes.tolist() == [0, 0, 1, 1, 1]
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    torch.testing.assert_close(grad, surrogate_derivative(X, Surrogate(kind)))


def test_unknown_kinds_are_refused_with_the_nearest_match() -> None:
    with pytest.raises(ValueError, match="got 'fast_sigmoyd'. Did you mean 'fast_sigmoid'"):
        Surrogate("fast_sigmoyd")  # type: ignore[arg-type]


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan"), float("inf")])
def test_slope_must_be_finite_and_positive(slope: float) -> None:
    with pytest.raises(ValueError, match="slope must be finite and above 0"):
        Surrogate("atan", slope)
