"""What the kernel tests share: random inputs, and one kernel call as values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Small ones, one step, convolution, one wide enough for several blocks and threads, and one so long
# that the scratch of a backward kernel makes its blocks narrower.
SHAPES = [(7, 3, 5), (1, 2, 3), (9, 2, 4, 5, 3), (11, 4), (3, 64, 1100), (300, 3, 1500)]


class Result(NamedTuple):
    values: list[Tensor]
    gradients: list[Tensor]


def leaf(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """A random tensor that wants a gradient."""
    return (scale * torch.randn(shape, dtype=dtype)).requires_grad_()


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
    """Values agree bit for bit, gradients up to rounding."""
    for ours, theirs in zip(fused.values, reference.values, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=0)
    for ours, theirs in zip(fused.gradients, reference.gradients, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * scale)
