"""Source functions: formulas, derivatives, and errors of the fits against the table."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from neuro.ops import SourceKind, depends_on_state, source_function
from neuro.ops.sources import SOURCES, STATE_DEPENDENT, slopes
from tests.ops.checks import leaf


def by_hand(kind: SourceKind, phi: float, i: float) -> float:
    """The specification's formulas, in plain Python."""
    if kind == "fitted":
        above = 0.37091212 * max(i - 1.06435066, 1e-6) ** 1.92138556
        d = above - 0.31903101 * (abs(math.cos(math.pi * phi)) + 1e-6) ** 2.50322787
        return max(d, 1e-6) ** (1 / 2.62706077) / (1 + math.exp(-100 * d))
    if kind == "tanh_gauss":
        s = 1.7 - min(max(i, 0.7), 1.7)
        bell = math.exp(-((phi % 1 - 0.5) ** 2) / (2 * 0.126327**2))
        return 0.784537 * (1 - s) ** 2.54841 * math.tanh(bell)
    return {
        "tanh": math.tanh(phi),
        "relu": max(phi, 0.0),
        "telu": phi * math.tanh(math.exp(phi)),
        "gelu": 0.5 * phi * math.tanh(0.8 * phi) + 0.5 * phi,
    }[kind]


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "table"])
@pytest.mark.parametrize("phi", [-1.3, 0.0, 0.23, 0.5, 0.8])
@pytest.mark.parametrize("i", [0.5, 1.2, 1.7, 2.1])
def test_formulas(kind: SourceKind, phi: float, i: float) -> None:
    point = torch.tensor((phi, i), dtype=torch.float64)
    assert source_function(kind, point[0], point[1]).item() == pytest.approx(by_hand(kind, phi, i))


@pytest.mark.parametrize("kind", SOURCES)
def test_slopes_are_the_gradients(kind: SourceKind) -> None:
    phi = (3 * torch.rand(2000, dtype=torch.float64) - 1).requires_grad_()
    i = (0.5 + 2.2 * torch.rand(2000, dtype=torch.float64)).requires_grad_()
    g = source_function(kind, phi, i)
    by_phi, by_i = torch.autograd.grad(g.sum(), (phi, i), materialize_grads=True)
    with torch.no_grad():
        found = slopes(kind, phi, i)
    for ours, theirs in zip(found, (g.detach(), by_phi, by_i), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert depends_on_state(kind) == bool(by_i.any())


@pytest.mark.parametrize("kind", SOURCES)
def test_gradcheck(kind: SourceKind) -> None:
    """At random points, which almost surely are not kinks."""
    inputs = leaf(12, dtype=torch.float64), leaf(12, dtype=torch.float64, scale=0.3)
    assert torch.autograd.gradcheck(lambda phi, i: source_function(kind, phi, 1.6 + i), inputs)


@pytest.mark.parametrize("kind", SOURCES)
def test_values_and_gradients_at_large_arguments_are_finite(kind: SourceKind) -> None:
    phi = torch.tensor([-200.0, 0.0, 0.5, 1.0, 200.0], requires_grad=True)
    i = torch.tensor([-50.0, 0.7, 1.0643506, 1.7, 50.0], requires_grad=True)
    g = source_function(kind, phi, i)
    found = *torch.autograd.grad(g.sum(), (phi, i), materialize_grads=True), *slopes(kind, phi, i)
    assert all(x.isfinite().all() for x in (g, *found))


# maximum and root mean square difference of the module's docstring
@pytest.mark.parametrize(
    ("kind", "low", "high", "largest", "mean"),
    [("fitted", 0.95, 2.5, 0.16, 0.02), ("tanh_gauss", 0.7, 1.7, 0.16, 0.05)],
)
def test_fits_have_the_documented_errors(
    kind: SourceKind, low: float, high: float, largest: float, mean: float
) -> None:
    i, phi = np.meshgrid(np.linspace(low, high, 301), np.linspace(0, 1, 201))
    at = partial(source_function, phi=torch.from_numpy(phi), squid_current=torch.from_numpy(i))
    error = (at(kind) - at("table")).abs()
    assert 0.8 * largest < error.max() < largest
    assert 0.8 * mean < error.square().mean().sqrt() < mean


def test_shapes_broadcast_and_the_unused_current_is_optional() -> None:
    phi, i = torch.rand(4, 3, 5), torch.full((5,), 1.7)
    for kind in SOURCES:
        assert source_function(kind, phi, i).shape == phi.shape
        if kind not in STATE_DEPENDENT:
            assert torch.equal(source_function(kind, phi), source_function(kind, phi, i))


def test_invalid_arguments_are_explained() -> None:
    with pytest.raises(ValueError, match="one of fitted, table.*got 'fited'. Did you mean 'fitted"):
        source_function("fited", torch.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source 'table' depends on the state; it needs the squid"):
        source_function("table", torch.zeros(3))
