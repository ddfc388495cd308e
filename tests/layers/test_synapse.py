"""Synapses: time folded into the batch, inputs that are constant in time, spikes as events."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuro.layers.layout import to_rows
from neuro.layers.synapse import (
    apply_weight,
    convolution,
    correlate,
    currents,
    dense,
    fold_time,
    weighted,
)
from neuro.ops.events import pack_events

SYNAPSES = {"conv": lambda: convolution(2, 3, 2), "dense": lambda: dense(2 * 5 * 5, 4)}


@pytest.mark.parametrize("kind", SYNAPSES)
def test_folding_equals_separate_steps(kind):
    torch.manual_seed(0)
    synapse = SYNAPSES[kind]()
    x = torch.randn(4, 3, 2, 5, 5, requires_grad=True)
    folded = fold_time(synapse, x)
    stepped = torch.stack([synapse(step) for step in x])
    torch.testing.assert_close(folded, stepped)
    up = torch.randn_like(folded)
    torch.testing.assert_close(
        torch.autograd.grad(folded, x, up)[0], torch.autograd.grad(stepped, x, up)[0]
    )


@pytest.mark.parametrize("steps, sizes", [(7, [3]), (1, [3])])
def test_a_held_input_is_transformed_once_and_not_copied(steps, sizes):
    synapse = convolution(2, 3, 1)
    seen = []
    synapse.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    held = torch.randn(1, 3, 2, 5, 5).expand(steps, -1, -1, -1, -1)
    out = fold_time(synapse, held)
    assert seen == sizes
    assert out.shape == (steps, 3, 3, 5, 5)
    assert steps == 1 or out.stride(0) == 0
    torch.testing.assert_close(out, fold_time(synapse, held.contiguous()))


@pytest.mark.parametrize("same", [False, True])
def test_the_gradient_of_a_held_input_sums_over_time(same):
    synapse = dense(4, 2)
    frame = torch.randn(1, 3, 4)
    up = torch.randn(1, 3, 2).expand(5, 3, 2) if same else torch.randn(5, 3, 2)
    held = torch.autograd.grad(fold_time(synapse, frame.expand(5, 3, 4)), synapse.weight, up)[0]
    full = torch.autograd.grad(fold_time(synapse, frame.repeat(5, 1, 1)), synapse.weight, up)[0]
    torch.testing.assert_close(held, full)


@pytest.mark.parametrize("kind", SYNAPSES)
def test_another_weight_in_place_of_the_own(kind):
    synapse, other = SYNAPSES[kind](), SYNAPSES[kind]()
    x = torch.randn(3, 2, 5, 5)
    assert torch.equal(apply_weight(synapse, other.weight, x), other(x))


@pytest.mark.parametrize("kind", SYNAPSES)
def test_correlation_is_the_weight_gradient(kind):
    synapse = SYNAPSES[kind]()
    x = torch.randn(3, 2, 5, 5)
    out = synapse(x)
    up = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, synapse.weight, up)
    (found,), everywhere = correlate(synapse, x, [up])
    torch.testing.assert_close(found, expected)
    (always,) = torch.autograd.grad(synapse(x), synapse.weight, torch.ones_like(out))
    torch.testing.assert_close(everywhere, always[:1])


def spikes(*shape):
    return (torch.rand(*shape) < 0.3).float().requires_grad_()


@pytest.mark.parametrize("kind", SYNAPSES)
def test_events_give_the_same_currents(kind, monkeypatch):
    torch.manual_seed(0)
    synapses = [SYNAPSES[kind](), SYNAPSES[kind]()]
    x = spikes(4, 3, 2, 5, 5)
    found = currents(synapses, x)
    expected = [to_rows(fold_time(synapse, x)) for synapse in synapses]
    ups = [torch.randn_like(value) for value in expected]
    inputs = [x, *(synapse.weight for synapse in synapses)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, ups), torch.autograd.grad(expected, inputs, ups)
    )
    monkeypatch.setattr(F, "conv2d", None)  # neither function is called
    monkeypatch.setattr(F, "linear", None)
    assert all(
        torch.equal(a, b) for a, b in zip(currents(synapses, x, packed(x)), found, strict=True)
    )


def packed(x):
    return pack_events(to_rows(x))


@pytest.mark.parametrize("kind", SYNAPSES)
def test_non_binary_values_use_the_dense_map(kind):
    synapse, x = SYNAPSES[kind](), torch.randn(4, 3, 2, 5, 5)
    (found,) = currents([synapse], x)
    assert torch.equal(found, to_rows(fold_time(synapse, x)))


@pytest.mark.parametrize("kind", SYNAPSES)
def test_a_hook_on_a_synapse_is_called_with_all_steps(kind):
    synapse, x, seen = SYNAPSES[kind](), spikes(4, 3, 2, 5, 5), []
    synapse.register_forward_hook(lambda module, args, out: seen.append(len(out)) or 2 * out)
    (found,) = currents([synapse], x)
    assert seen == [12]
    torch.testing.assert_close(found, 2 * weighted([(synapse, synapse.weight)], x)[0])


def test_a_bias_is_added():
    synapse, x = torch.nn.Conv2d(2, 3, 3, padding=1), spikes(4, 3, 2, 5, 5)
    torch.testing.assert_close(currents([synapse], x), [to_rows(fold_time(synapse, x))])


@pytest.mark.parametrize("kind", SYNAPSES)
def test_correlation_with_spikes_after_the_synapse(kind):
    synapse, x = SYNAPSES[kind](), torch.randn(3, 2, 5, 5)
    posts = [spikes(*synapse(x).shape).detach() for _ in range(2)]
    assert all(packed(post[None]) is not None for post in posts)
    expected = [torch.autograd.grad(synapse(x), synapse.weight, post)[0] for post in posts]
    always = torch.autograd.grad(synapse(x), synapse.weight, torch.ones_like(posts[0]))[0]
    found, everywhere = correlate(synapse, x, posts)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(everywhere, always[:1])


@pytest.mark.parametrize("size, stride, expected", [(8, 1, 8), (8, 2, 4), (7, 2, 4), (5, 3, 2)])
def test_sizes_of_maps(size, stride, expected):
    out = convolution(1, 2, stride)(torch.zeros(1, 1, size, size))
    assert out.shape == (1, 2, expected, expected)


def test_initial_weights_are_within_a_chips_range():
    torch.manual_seed(0)
    weight = convolution(1, 200, 1).weight.detach()
    assert weight.abs().max() == 1.0  # some are clipped
    assert weight.std() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert dense(3, 2).bias is None
