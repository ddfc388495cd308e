"""Closed-form continuous-time cells: the fused kernel against the definition."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from neuro.ops import cfc, cfc_reference
from neuro.ops.cfc import Activation
from tests.ops.checks import leaf, result


def arguments(
    steps: int,
    batch: int,
    units: int,
    hidden: int,
    timed: bool,
    backbone: bool = True,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor | None]:
    """Random drive, h0, recurrent, heads, bias and times."""
    values, make = units * (4 if timed else 3), partial(leaf, dtype=dtype, scale=0.5)
    times = torch.rand(steps, batch, units, dtype=dtype).requires_grad_() if timed else None
    return [
        make(steps, batch, hidden if backbone else values),
        make(batch, units),
        make(hidden, units) if backbone else None,
        make(values, hidden if backbone else units),
        make(values) if backbone else None,
        times,
    ]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("backbone", [False, True])
@pytest.mark.parametrize(
    ("gated", "activation"), [(True, "lecun_tanh"), (False, "relu"), (True, "tanh")]
)
def test_agrees_with_reference(
    timed: bool, backbone: bool, gated: bool, activation: Activation
) -> None:
    given = arguments(6, 5, 7, 11, timed, backbone)
    inputs = [x for x in given if x is not None]
    fused, reference = (
        result(partial(f, *given, gated=gated, activation=activation), inputs)
        for f in (cfc, cfc_reference)
    )
    pairs = zip(
        (*fused.values, *fused.gradients), (*reference.values, *reference.gradients), strict=True
    )
    for ours, theirs in pairs:
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * scale)


def test_threads_do_not_change_values() -> None:
    drive, h0, recurrent, heads, bias, times = arguments(40, 9, 64, 128, True)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(cfc(drive, h0, recurrent, heads, bias, times))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_float64_passes_gradcheck() -> None:
    given = arguments(3, 2, 3, 4, True, dtype=torch.float64)
    assert torch.autograd.gradcheck(cfc, given)


def test_parts_equal_the_whole_and_inputs_stay() -> None:
    drive, h0, recurrent, heads, bias, _ = arguments(9, 2, 5, 8, False)
    copy = h0.clone()
    whole = cfc(drive, h0, recurrent, heads, bias)
    first = cfc(drive[:4], h0, recurrent, heads, bias)
    second = cfc(drive[4:], first[-1], recurrent, heads, bias)
    assert torch.equal(torch.cat((first, second)), whole)
    assert torch.equal(h0, copy)


def test_large_preactivations_stay_finite() -> None:
    given = arguments(4, 2, 5, 8, False)
    given[0] = (given[0].detach() * 1e6).requires_grad_()
    found = result(partial(cfc, *given), [x for x in given if x is not None])
    assert all(x.isfinite().all() for x in (*found.values, *found.gradients))


def test_bad_shapes_are_explained() -> None:
    drive, h0, recurrent, heads, bias, _ = arguments(4, 2, 5, 8, False)
    with pytest.raises(ValueError, match=r"heads must have shape \[15, 8\] to fit"):
        cfc(drive, h0, recurrent, heads.T, bias)
    with pytest.raises(ValueError, match=r"activation must be one of lecun_tanh, tanh, relu"):
        cfc(drive, h0, recurrent, heads, bias, activation="gelu")
