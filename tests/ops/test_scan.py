"""The linear scan and the exponential trace."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from neuro.ops import (
    exponential_trace,
    exponential_trace_reference,
    linear_scan,
    linear_scan_reference,
)
from tests.ops.checks import SHAPES, assert_same, leaf, result


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_scan_agrees_with_reference(shape: tuple[int, ...]) -> None:
    inputs = leaf(*shape), leaf(*shape), leaf(*shape[1:])
    fused, reference = (
        result(partial(f, *inputs), inputs) for f in (linear_scan, linear_scan_reference)
    )
    assert_same(fused, reference)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", SHAPES)
def test_trace_agrees_with_reference(shape: tuple[int, ...]) -> None:
    inputs = leaf(*shape), leaf(*shape[1:])
    fused, reference = (
        result(partial(f, *inputs, decay=0.8), inputs)
        for f in (exponential_trace, exponential_trace_reference)
    )
    assert_same(fused, reference)


@pytest.mark.usefixtures("backend")
def test_inputs_that_are_constant_in_time_get_the_summed_gradient() -> None:
    a, b = leaf(3, 5), leaf(3, 5)
    fused, reference = (
        result(partial(f, a.expand(9, 3, 5), b.expand(9, 3, 5)), (a, b))
        for f in (linear_scan, linear_scan_reference)
    )
    assert_same(fused, reference)


def test_gradcheck() -> None:
    inputs = tuple(leaf(*shape, dtype=torch.float64) for shape in ((5, 2, 3), (5, 2, 3), (2, 3)))
    assert torch.autograd.gradcheck(linear_scan, inputs)


@pytest.mark.usefixtures("backend")
def test_impulse_leaves_an_exponential() -> None:
    impulse = torch.zeros(6, 1, 1)
    impulse[1] = 1.0
    trace = exponential_trace(impulse, decay=0.5)
    assert trace.flatten().tolist() == [0, 1, 0.5, 0.25, 0.125, 0.0625]


def test_chunks_equal_the_whole_and_inputs_stay() -> None:
    spikes = (torch.rand(12, 3, 5) < 0.3).float()
    copy = spikes.clone()
    first = exponential_trace(spikes[:5], decay=0.8)
    second = exponential_trace(spikes[5:], first[-1], decay=0.8)
    assert torch.equal(torch.cat((first, second)), exponential_trace(spikes, decay=0.8))
    assert torch.equal(spikes, copy)


def test_narrow_floats_keep_their_dtype() -> None:
    spikes = torch.ones(4, 2, 3, dtype=torch.bfloat16)
    assert exponential_trace(spikes, decay=0.5).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("a", "x0", "message"),
    [
        (torch.zeros(4, 2, 3), None, r"a must have shape \[5, 2, 3\] to fit b; got \[4, 2, 3\]"),
        (torch.zeros(5, 2, 3), torch.zeros(3), r"x0 must have shape \[2, 3\]"),
    ],
)
def test_bad_shapes_are_explained(a: Tensor, x0: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(a, torch.zeros(5, 2, 3), x0)


def test_bad_decay_is_explained() -> None:
    with pytest.raises(ValueError, match=r"decay .* lies in \[0, 1\]; got 2"):
        exponential_trace(torch.zeros(5, 2, 3), decay=2)
