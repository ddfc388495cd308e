"""The fused LIF kernel against its reference, analytic traces and snntorch."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import pytest
import torch

from neuro.ops import Reset, Surrogate, SurrogateKind, lif, lif_reference
from tests.ops.checks import SHAPES, Result, assert_same, leaf, result


def both(current: torch.Tensor, v0: torch.Tensor, **kwargs: Any) -> tuple[Result, Result]:
    record = {"record_membrane": True, "record_rate": True}
    kwargs = {"decay": 0.9, "threshold": 0.7, **record} | kwargs
    fused, reference = (
        result(partial(f, current, v0, **kwargs), (current, v0)) for f in (lif, lif_reference)
    )
    return fused, reference


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reset", get_args(Reset))
def test_agrees_with_reference(shape: tuple[int, ...], reset: Reset) -> None:
    assert_same(*both(leaf(*shape), leaf(*shape[1:]), reset=reset))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", get_args(SurrogateKind))
def test_agrees_for_every_surrogate(kind: SurrogateKind) -> None:
    assert_same(*both(leaf(8, 3, 20), leaf(3, 20), surrogate=Surrogate(kind, 3.0)))


@pytest.mark.usefixtures("backend")
def test_threshold_per_channel_is_broadcast_over_space() -> None:
    threshold = torch.tensor([0.3, 0.9, 2.0, 50.0])
    fused, reference = both(leaf(6, 2, 4, 3, 3), leaf(2, 4, 3, 3), threshold=threshold)
    assert_same(fused, reference)
    assert not fused.values[0][:, :, 3].any()


def test_float64() -> None:
    shape = (6, 3, 5)
    assert_same(*both(leaf(*shape, dtype=torch.float64), leaf(3, 5, dtype=torch.float64)))


def test_narrow_floats_are_computed_in_float32() -> None:
    current = torch.randn(20, 3, 40).to(torch.bfloat16)
    narrow = lif(current, decay=0.9, threshold=0.7)
    full = lif(current.float(), decay=0.9, threshold=0.7)
    assert narrow.spikes_TBN.dtype == torch.bfloat16
    assert narrow.v_BN.dtype == torch.float32
    assert torch.equal(narrow.spikes_TBN.float(), full.spikes_TBN)
    assert torch.equal(narrow.v_BN, full.v_BN)


@pytest.mark.usefixtures("backend")
def test_constant_current_is_not_copied_and_gets_the_summed_gradient() -> None:
    step, v0 = leaf(3, 50), leaf(3, 50)
    fused, reference = (
        result(partial(f, step.expand(12, 3, 50), v0, decay=0.9, threshold=0.7), (step, v0))
        for f in (lif, lif_reference)
    )
    assert_same(fused, reference)
    spikes = lif(step.expand(12, 3, 50), decay=0.9, threshold=0.7).spikes_TBN
    saved = spikes.grad_fn.next_functions[0][0].saved_tensors  # type: ignore[union-attr]
    assert max(x.numel() for x in saved) == step.numel()


@pytest.mark.usefixtures("backend")
def test_non_contiguous_input() -> None:
    current, v0 = leaf(3, 8, 5), leaf(5, 3)
    view, state = current.transpose(0, 1), v0.t()
    fused, reference = (
        result(partial(f, view, state, decay=0.9, threshold=0.7), (current, v0))
        for f in (lif, lif_reference)
    )
    assert_same(fused, reference)


@pytest.mark.parametrize("reset", get_args(Reset))
def test_chunks_with_carried_state_equal_the_whole(reset: Reset) -> None:
    current, v0 = leaf(12, 3, 5), leaf(3, 5)
    run = partial(lif, decay=0.9, threshold=0.7, reset=reset, record_membrane=True)

    def chunked() -> tuple[torch.Tensor, ...]:
        first = run(current[:5], v0)
        second = run(current[5:], first.v_BN)
        assert first.membrane_TBN is not None and second.membrane_TBN is not None
        return (
            torch.cat((first.spikes_TBN, second.spikes_TBN)),
            second.v_BN,
            torch.cat((first.membrane_TBN, second.membrane_TBN)),
        )

    assert_same(result(chunked, (current, v0)), result(lambda: run(current, v0), (current, v0)))


@pytest.mark.usefixtures("backend")
def test_membrane_decays_exponentially_without_input() -> None:
    out = lif(torch.zeros(10, 1, 1), torch.ones(1, 1), decay=0.5, threshold=2.0)
    assert out.v_BN.item() == 0.5**10
    assert not out.spikes_TBN.any()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("reset", "spikes", "membrane"),
    [
        ("subtract", [0, 1, 0, 1, 1], [0.75, 1.125, 0.8125, 1.15625, 3.078125]),
        ("zero", [0, 1, 0, 1, 1], [0.75, 1.125, 0.75, 1.125, 3.0]),
    ],
)
def test_literal_trace(reset: Reset, spikes: list[int], membrane: list[float]) -> None:
    current = torch.tensor([0.75, 0.75, 0.75, 0.75, 3.0]).view(5, 1, 1)
    out = lif(current, decay=0.5, threshold=1.0, reset=reset, record_membrane=True)
    assert out.spikes_TBN.flatten().tolist() == spikes
    assert out.membrane_TBN is not None
    assert out.membrane_TBN.flatten().tolist() == membrane


def test_reaching_the_threshold_exactly_is_a_spike() -> None:
    assert lif(torch.ones(1, 1, 1), decay=0.5, threshold=1.0).spikes_TBN.item() == 1


def test_gradcheck_below_threshold() -> None:
    """Without spikes state and membrane are smooth, so that finite differences apply."""
    current = leaf(6, 2, 3, dtype=torch.float64, scale=0.1)
    v0 = leaf(2, 3, dtype=torch.float64, scale=0.1)

    def smooth(current: torch.Tensor, v0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = lif(current, v0, decay=0.8, threshold=100.0, record_membrane=True)
        assert out.membrane_TBN is not None
        return out.v_BN, out.membrane_TBN

    assert torch.autograd.gradcheck(smooth, (current, v0))


@pytest.mark.parametrize("reset", get_args(Reset))
def test_agrees_with_snntorch(reset: Reset) -> None:
    """snntorch's reset_delay=False resets in the step of the spike, and then returns v after it.

    It fires above the threshold, ours at it (no difference on random data), and resets again if v
    is above the threshold after a reset; the currents here are too small for that.
    """
    snntorch = pytest.importorskip("snntorch")
    current = torch.rand(50, 4, 30)
    neuron = snntorch.Leaky(beta=0.9, threshold=1.0, reset_mechanism=reset, reset_delay=False)
    v = torch.zeros(4, 30)
    spikes = []
    for step in current:
        s, v = neuron(step, v)
        spikes.append(s)
    out = lif(current, decay=0.9, threshold=1.0, reset=reset)
    assert torch.equal(out.spikes_TBN, torch.stack(spikes))
    assert 0.2 < out.spikes_TBN.mean() < 0.8
    torch.testing.assert_close(out.v_BN, v)


def test_inputs_are_not_mutated_and_not_saved_without_gradients() -> None:
    current, v0, threshold = torch.randn(9, 3, 5), torch.randn(3, 5), torch.rand(5) + 0.1
    copies = current.clone(), v0.clone(), threshold.clone()
    with torch.inference_mode():
        out = lif(current, v0, decay=0.9, threshold=threshold)
    with torch.no_grad():
        same = lif(current.requires_grad_(), v0, decay=0.9, threshold=threshold)
    assert out.membrane_TBN is None
    assert same.spikes_TBN.grad_fn is None
    assert torch.equal(out.spikes_TBN, same.spikes_TBN)
    for tensor, copy in zip((current, v0, threshold), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_backward_twice_gives_the_same() -> None:
    current = leaf(9, 3, 5)
    spikes = lif(current, decay=0.9, threshold=0.7).spikes_TBN
    (first,) = torch.autograd.grad(spikes.sum(), current, retain_graph=True)
    (second,) = torch.autograd.grad(spikes.sum(), current)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay": 1.1}, r"decay .* lies in \[0, 1\]; got 1.1"),
        ({"decay": float("nan")}, r"decay .* lies in \[0, 1\]; got nan"),
        ({"threshold": 0.0}, "threshold must be above 0; got 0.0"),
        ({"threshold": torch.ones(3)}, r"threshold must be a scalar or have shape \[4\]"),
        ({"threshold": torch.ones(4, requires_grad=True)}, "threshold has no gradient"),
        ({"reset": "hard"}, "reset must be one of subtract, zero; got 'hard'"),
        ({"v0_BN": torch.zeros(3, 4)}, r"v0 must have shape \[2, 4\] to fit the input"),
        ({"current_TBN": torch.zeros(5)}, r"current must be a floating-point sequence \[T, B"),
        ({"current_TBN": torch.zeros(5, 2, 4).int()}, "floating-point sequence.*int32"),
        ({"current_TBN": torch.zeros(0, 2, 4)}, r"current is empty: its shape is \[0, 2, 4\]"),
    ],
)
def test_bad_arguments_are_explained(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "current_TBN": torch.zeros(5, 2, 4),
        "decay": 0.9,
        "threshold": 1.0,
    } | changes
    with pytest.raises(ValueError, match=message):
        lif(**arguments)
