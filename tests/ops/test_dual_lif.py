"""The fused dual-timescale LIF kernel against its reference."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from neuro.ops import (
    DualLIFState,
    Merge,
    Reset,
    Surrogate,
    SurrogateKind,
    dual_lif,
    dual_lif_reference,
    lif,
)
from neuro.ops.events import event_trace
from tests.ops.checks import SHAPES, assert_same, leaf, result

DECAYS: dict[str, Any] = {"decay_fast": 0.8, "decay_slow": 0.97}
RECORD: dict[str, Any] = {f"record_{trace}": True for trace in ("rate", "spikes", "membranes")}


def check(
    fast: Tensor, slow: Tensor, *, merge: Merge, gamma: Tensor | None = None, **kwargs: Any
) -> None:
    """Assert that the kernel equals the reference in all outputs, records and gradients."""
    dtype = torch.float64 if fast.dtype == torch.float64 else torch.float32
    state = DualLIFState(leaf(*fast.shape[1:], dtype=dtype), leaf(*fast.shape[1:], dtype=dtype))
    inputs = [fast, slow, *state]
    if merge == "gate":
        gamma = torch.tensor(0.3, requires_grad=True) if gamma is None else gamma
        inputs.append(gamma)
    kwargs = {**DECAYS, "threshold": 0.7, "merge": merge, "gamma": gamma} | kwargs
    fused = result(partial(dual_lif, fast, slow, state, **kwargs, **RECORD), inputs)
    assert_same(fused, result(partial(dual_lif_reference, fast, slow, state, **kwargs), inputs))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("merge", get_args(Merge))
@pytest.mark.parametrize("reset", get_args(Reset))
def test_agrees_with_reference(shape: tuple[int, ...], merge: Merge, reset: Reset) -> None:
    check(leaf(*shape), leaf(*shape), merge=merge, reset=reset)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("merge", get_args(Merge))
@pytest.mark.parametrize("kind", get_args(SurrogateKind))
def test_agrees_for_every_surrogate(merge: Merge, kind: SurrogateKind) -> None:
    check(leaf(8, 3, 20), leaf(8, 3, 20), merge=merge, surrogate=Surrogate(kind, 3.0))


@pytest.mark.usefixtures("backend")
def test_gamma_and_threshold_per_channel() -> None:
    gamma = torch.rand(4, requires_grad=True)
    shape = (6, 2, 4, 3, 3)
    check(leaf(*shape), leaf(*shape), merge="gate", gamma=gamma, threshold=torch.rand(4) + 0.3)


@pytest.mark.slow  # kernels are compiled for float64
@pytest.mark.parametrize("merge", get_args(Merge))
def test_float64(merge: Merge) -> None:
    shape = (6, 3, 5)
    check(leaf(*shape, dtype=torch.float64), leaf(*shape, dtype=torch.float64), merge=merge)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("merge", get_args(Merge))
def test_constant_and_non_contiguous_currents(merge: Merge) -> None:
    step, other = leaf(3, 50), leaf(3, 12, 50)
    settings: dict[str, Any] = {**DECAYS, "threshold": 0.7, "merge": merge}
    settings["gamma"] = 0.4 if merge == "gate" else None
    fast, slow = step.expand(12, 3, 50), other.transpose(0, 1)
    assert_same(
        result(partial(dual_lif, fast, slow, **settings, **RECORD), (step, other)),
        result(partial(dual_lif_reference, fast, slow, **settings), (step, other)),
    )


@pytest.mark.parametrize("merge", get_args(Merge))
def test_chunks_with_carried_state_equal_the_whole(merge: Merge) -> None:
    fast, slow = leaf(12, 3, 5), leaf(12, 3, 5)
    gamma = 0.3 if merge == "gate" else None
    settings: dict[str, Any] = {**DECAYS, "threshold": 0.7, "merge": merge, "gamma": gamma}

    def chunked() -> tuple[Any, ...]:
        first = dual_lif(fast[:5], slow[:5], **settings)
        second = dual_lif(fast[5:], slow[5:], first.state, **settings)
        return torch.cat((first.spikes, second.spikes)), second.state

    def whole() -> tuple[Any, ...]:
        out = dual_lif(fast, slow, **settings)
        return out.spikes, out.state

    assert_same(result(chunked, (fast, slow)), result(whole, (fast, slow)))


@pytest.mark.parametrize("reset", get_args(Reset))
def test_one_compartment_equals_lif(reset: Reset) -> None:
    fast, slow = torch.randn(30, 2, 7), torch.randn(30, 2, 7)
    out = dual_lif(fast, slow, **DECAYS, threshold=0.7, gamma=1.0, reset=reset)
    assert torch.equal(out.spikes, lif(fast, decay=0.8, threshold=0.7, reset=reset).spikes_TBN)
    out = dual_lif(fast, slow, **DECAYS, threshold=0.7, gamma=0.0, reset=reset)
    assert torch.equal(out.spikes, lif(slow, decay=0.97, threshold=0.7, reset=reset).spikes_TBN)


@pytest.mark.usefixtures("backend")
def test_or_is_the_union_of_two_lifs() -> None:
    fast, slow = torch.randn(30, 2, 7), torch.randn(30, 2, 7)
    out = dual_lif(fast, slow, **DECAYS, threshold=0.7, merge="or", record_spikes=True)
    branches = (
        lif(fast, decay=0.8, threshold=0.7).spikes_TBN,
        lif(slow, decay=0.97, threshold=0.7).spikes_TBN,
    )
    assert out.fast_spikes is not None and out.slow_spikes is not None
    assert torch.equal(out.fast_spikes, branches[0])
    assert torch.equal(out.slow_spikes, branches[1])
    assert torch.equal(out.spikes, torch.maximum(*branches))
    torch.testing.assert_close(out.fast_rate, branches[0].mean(0))
    torch.testing.assert_close(out.slow_rate, branches[1].mean(0))


@pytest.mark.usefixtures("backend")
def test_literal_trace_of_the_gate() -> None:
    """theta 1, gamma 1/2: a merged spike resets both; crossings of one branch do not reset."""
    fast = torch.tensor([0.75, 1.0, 0.0]).view(3, 1, 1)
    slow = torch.tensor([0.25, 1.0, 0.0]).view(3, 1, 1)
    out = dual_lif(fast, slow, decay_fast=0.5, decay_slow=1.0, threshold=1.0, gamma=0.5, **RECORD)
    assert out.fast_membrane is not None and out.slow_membrane is not None
    assert out.fast_spikes is not None and out.slow_spikes is not None
    assert out.fast_membrane.flatten().tolist() == [0.75, 1.375, 0.1875]
    assert out.slow_membrane.flatten().tolist() == [0.25, 1.25, 0.25]
    assert out.spikes.flatten().tolist() == [0, 1, 0]
    assert out.fast_spikes.flatten().tolist() == [0, 1, 0]
    assert (out.state.v_fast.item(), out.state.v_slow.item()) == (0.1875, 0.25)


def test_gradcheck_below_threshold() -> None:
    """Without spikes the last state is smooth, so that finite differences apply."""
    fast, slow = (leaf(5, 2, 3, dtype=torch.float64, scale=0.1) for _ in range(2))
    v0 = DualLIFState(*(leaf(2, 3, dtype=torch.float64, scale=0.1) for _ in range(2)))

    def smooth(fast: Tensor, slow: Tensor, v_fast: Tensor, v_slow: Tensor) -> DualLIFState:
        state = DualLIFState(v_fast, v_slow)
        return dual_lif(fast, slow, state, **DECAYS, threshold=100.0, gamma=0.3).state

    assert torch.autograd.gradcheck(smooth, (fast, slow, *v0))


@pytest.mark.usefixtures("backend")
def test_gradient_of_gamma_by_hand() -> None:
    """One step: ds/dgamma = h(v - theta) * (v_fast - v_slow), the triangle h = 1 - |v - theta|."""
    gamma = torch.tensor([0.25], requires_grad=True)
    fast, slow = torch.full((1, 1, 1), 1.0), torch.full((1, 1, 1), 0.2)
    out = dual_lif(
        fast, slow, **DECAYS, threshold=0.5, gamma=gamma, surrogate=Surrogate("triangle", 1.0)
    )
    (grad,) = torch.autograd.grad(out.spikes.sum(), gamma)
    torch.testing.assert_close(grad, torch.tensor([(1 - 0.1) * 0.8]))


def test_records_are_none_unless_requested() -> None:
    out = dual_lif(leaf(4, 2, 3), leaf(4, 2, 3), **DECAYS, threshold=0.7, gamma=0.5)
    assert out[4:] == (None,) * 5
    assert not out.fast_rate.requires_grad


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("merge", get_args(Merge))
@pytest.mark.parametrize("record", [{}, {"record_spikes": True}, {"record_membranes": True}])
def test_recording_does_not_change_outputs(merge: Merge, record: dict[str, bool]) -> None:
    """Kernels are compiled for each set of outputs; all must agree with that of all outputs."""
    fast, slow = torch.randn(9, 3, 500), torch.randn(9, 3, 500)
    gamma = 0.3 if merge == "gate" else None
    settings: dict[str, Any] = {**DECAYS, "threshold": 0.7, "merge": merge, "gamma": gamma}
    out = dual_lif(fast, slow, **settings, **record)
    full = dual_lif(fast, slow, **settings, **RECORD)
    for name, value in out._asdict().items():
        if value is not None:
            torch.testing.assert_close(value, getattr(full, name), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(9, 3, 64), (40, 130, 64), (5, 2, 2, 4, 8), (3, 300, 192)])
@pytest.mark.parametrize("merge", get_args(Merge))
@pytest.mark.parametrize("threads", [1, 3])
def test_packed_branch_spikes_are_the_same(
    shape: tuple[int, ...], merge: Merge, threads: int
) -> None:
    fast, slow = torch.randn(shape), torch.randn(shape)
    gamma = 0.3 if merge == "gate" else None
    settings: dict[str, Any] = {**DECAYS, "threshold": 0.7, "merge": merge, "gamma": gamma}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = dual_lif(fast, slow, **settings, record_spikes="packed")
    finally:
        torch.set_num_threads(before)
    wanted = dual_lif(fast, slow, **settings, record_spikes=True)
    for name, value in found._asdict().items():
        if name in ("fast_spikes", "slow_spikes"):
            assert value.dtype == torch.int64
            columns = 64 * value.shape[2]
            value = event_trace(value, columns, 0.0).view(shape)
        torch.testing.assert_close(value, getattr(wanted, name), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_branch_spikes_that_cannot_be_packed_are_values(dtype: torch.dtype) -> None:
    shape = (4, 2, 100 if dtype == torch.float32 else 64)
    fast, slow = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    out = dual_lif(fast, slow, **DECAYS, threshold=0.7, gamma=0.5, record_spikes="packed")
    assert out.fast_spikes is not None and out.fast_spikes.dtype == dtype
    assert out.fast_spikes.shape == shape


def test_inputs_are_not_mutated() -> None:
    fast, slow, state = leaf(9, 3, 5), leaf(9, 3, 5), DualLIFState(leaf(3, 5), leaf(3, 5))
    copies = [x.detach().clone() for x in (fast, slow, *state)]
    out = dual_lif(fast, slow, state, **DECAYS, threshold=0.7, merge="or")
    torch.autograd.backward(out.spikes.sum() + out.state.v_slow.sum())
    for tensor, copy in zip((fast, slow, *state), copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": "and"}, "merge must be one of gate, or; got 'and'"),
        ({"gamma": None}, 'merge "gate" needs gamma'),
        ({"merge": "or"}, 'merge "or" takes no gamma'),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\]; got 1.5"),
        ({"gamma": torch.rand(3)}, r"gamma must be a scalar or have shape \[4\]"),
        ({"decay_slow": -0.1}, r"decay_slow .* lies in \[0, 1\]; got -0.1"),
        ({"slow_TBN": torch.zeros(5, 2, 3)}, r"slow current must have shape \[5, 2, 4\]"),
        ({"slow_TBN": torch.zeros(5, 2, 4).double()}, "differ in dtype: fast torch.float32"),
        (
            {"state": DualLIFState(torch.zeros(2, 4), torch.zeros(4))},
            r"state.v_slow must have shape \[2, 4\]",
        ),
    ],
)
def test_bad_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    currents = {"fast_TBN": torch.zeros(5, 2, 4), "slow_TBN": torch.zeros(5, 2, 4)}
    with pytest.raises(ValueError, match=message):
        dual_lif(**({**currents, **DECAYS, "threshold": 1.0, "gamma": 0.5} | changes))
