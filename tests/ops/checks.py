"""Helpers for tests of kernels: random inputs, values and gradients, exact solutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from neuro.ops import SourceKind, source_function

# A small shape, a single step, a convolution, one wide enough for several blocks and threads, one
# so long that backward kernels need narrower blocks for their scratch memory.
SHAPES = [(7, 3, 5), (1, 2, 3), (9, 2, 4, 5, 3), (11, 4), (3, 64, 1100), (300, 3, 1500)]


class Result(NamedTuple):
    values: list[Tensor]
    gradients: list[Tensor]


def leaf(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """A random tensor that requires a gradient."""
    return (scale * torch.randn(shape, dtype=dtype)).requires_grad_()


def step_response(kind: SourceKind, phi: float, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """States [T] of a dendrite of default parameters for a flux sequence `phi`, from rest.

    Fine integration of its differential equation.
    """

    def slope(_: float, s: NDArray[np.float64]) -> list[float]:
        flux, current = torch.tensor((phi, 1.7 - s[0]), dtype=torch.float64)
        return [0.006582 * source_function(kind, flux, current).item() - 1e-3 * s[0]]

    span = (0, times[-1])
    states = solve_ivp(slope, span, [0.0], rtol=1e-8, atol=1e-10, t_eval=times).y[0]
    return np.asarray(states)


def result(function: Callable[[], Any], inputs: Sequence[Tensor]) -> Result:
    """All outputs, and the gradients of a fixed random projection of the differentiable ones."""
    values = list(_tensors(function()))
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for value in values:
        if value.requires_grad:
            weight = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            loss = loss + (value * weight).sum()
    return Result(values, list(torch.autograd.grad(loss, inputs)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)


def assert_same(fused: Result, reference: Result) -> None:
    """Assert bit-identical values and gradients that are equal up to rounding."""
    for ours, theirs in zip(fused.values, reference.values, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=0)
    for ours, theirs in zip(fused.gradients, reference.gradients, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * scale)
