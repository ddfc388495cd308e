"""The selective scan: fused kernel and linear scan over states against the definition."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from neuro.ops import selective_scan, selective_scan_reference
from neuro.ops.kernels.launch import compiled
from tests.ops.checks import Result, leaf, result

# steps, batch, features, states: lengths 1 to 8, odd ones, several spans and blocks of features
SHAPES = [*((steps, 2, 5, 4) for steps in range(1, 9)), (33, 3, 70, 3), (67, 1, 130, 16)]


def arguments(
    steps: int, batch: int, width: int, states: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """u, dt, A, B, C, D and an initial state."""
    dt = torch.rand(steps, batch, width, dtype=dtype).mul_(0.5).requires_grad_()
    A = torch.rand(width, states, dtype=dtype).mul_(-8).requires_grad_()
    u, state = leaf(steps, batch, width, dtype=dtype), leaf(batch, width, states, dtype=dtype)
    b, c = (leaf(steps, batch, states, dtype=dtype) for _ in range(2))
    return u, dt, A, b, c, leaf(width, dtype=dtype), state


def assert_close(ours: Result, theirs: Result, rtol: float) -> None:
    """Each tensor within `rtol` of its largest element."""
    pairs = zip((*ours.values, *ours.gradients), (*theirs.values, *theirs.gradients), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * float(b.detach().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_reference(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    inputs = arguments(*shape, dtype=dtype)
    fused, reference = (
        result(partial(f, *inputs), inputs) for f in (selective_scan, selective_scan_reference)
    )
    assert_close(fused, reference, 2e-6 if dtype == torch.float32 else 1e-12)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(selective_scan, arguments(3, 2, 3, 2, torch.float64))


def test_parts_equal_the_whole_and_inputs_stay() -> None:
    u, dt, a, b, c, d, state = (x.detach() for x in arguments(40, 2, 70, 4))
    copy = state.clone()
    whole = selective_scan(u, dt, a, b, c, d, state)
    h, outputs = state, []
    for start, stop in ((0, 1), (1, 18), (18, 40)):
        y, h = selective_scan(
            *(x[start:stop] for x in (u, dt)), a, b[start:stop], c[start:stop], d, h
        )
        outputs.append(y)
    assert torch.equal(torch.cat(outputs), whole.y_TBD)
    assert torch.equal(h, whole.state_BDN)
    assert torch.equal(state, copy)


def test_no_state_is_zeros() -> None:
    *inputs, state = (x.detach() for x in arguments(9, 2, 5, 4))
    assert torch.equal(selective_scan(*inputs).y_TBD, selective_scan(*inputs, state * 0).y_TBD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dt", "a"), [(0.0, -1e8), (1e-30, -1e8), (1e3, -1e8), (1e3, -1e-8)])
def test_extreme_steps_are_finite(dt: float, a: float, dtype: torch.dtype) -> None:
    inputs = arguments(20, 2, 5, 4, dtype)
    for tensor, value in ((inputs[1], dt), (inputs[2], a)):
        tensor.detach().fill_(value)
    found = result(partial(selective_scan, *inputs), inputs)
    assert all(x.isfinite().all() for x in (*found.values, *found.gradients))


def test_nan_is_propagated() -> None:
    inputs = [x.detach() for x in arguments(4, 1, 20, 2)]
    inputs[2][3, 1] = torch.nan
    y = selective_scan(*inputs).y_TBD
    assert y[:, 0, 3].isnan().all()
    assert y[:, 0, :3].isfinite().all()


def test_threads_do_not_change_results() -> None:
    shape = (70, 4, 130, 16)
    inputs, threads = arguments(*shape), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(result(partial(selective_scan, *inputs), inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, found[0].values, found[1].values))
    assert all(map(torch.equal, found[0].gradients, found[1].gradients))


def test_narrow_floats_keep_their_dtype() -> None:
    inputs = [x.detach().bfloat16() for x in arguments(4, 2, 3, 2)]
    y, state = selective_scan(*inputs)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)


def test_constants_equal_those_of_the_kernels() -> None:
    from neuro.ops.selective_scan import BLOCK, SPAN

    kernels = compiled("selective_scan")
    assert (BLOCK, SPAN) == (kernels.BLOCK, kernels.SPAN)


def test_bad_shapes_are_explained() -> None:
    u, dt, a, b, c, d, state = arguments(4, 2, 3, 2)
    with pytest.raises(ValueError, match=r"B must have shape \[4, 2, 2\] to fit u and A; got"):
        selective_scan(u, dt, a, b[..., :1], c, d)
    with pytest.raises(ValueError, match=r"state must have shape \[2, 3, 2\]"):
        selective_scan(u, dt, a, b, c, d, state.mT)
    with pytest.raises(ValueError, match=r"A the shape \[D, N\]; got \[4, 2, 3\] and \[2\]"):
        selective_scan(u, dt, a[0], b, c, d)
