"""Kernels of learned delays, and their fast forms against tap-by-tap references."""

from __future__ import annotations

import pytest
import torch

from neuro.ops.delays import (
    delayed_currents,
    delayed_currents_reference,
    delayed_inputs,
    delayed_inputs_reference,
    gaussian_delays,
)


def test_kernels_are_normalised_gaussians_at_their_positions() -> None:
    positions = torch.tensor([[0.0, 2.5], [4.0, 1.0]])
    kernels = gaussian_delays(positions, torch.tensor(0.5), longest=4)
    assert kernels.shape == (2, 2, 5)
    torch.testing.assert_close(kernels.sum(-1), torch.ones(2, 2))
    assert kernels[1].argmax(-1).tolist() == [4, 1]
    torch.testing.assert_close(kernels[0, 1, 2], kernels[0, 1, 3])
    expected = torch.exp(torch.tensor(-0.5 * (1 / 0.5) ** 2))  # one step from the peak
    torch.testing.assert_close(kernels[1, 1, 0] / kernels[1, 1, 1], expected)
    narrow = gaussian_delays(positions[1], torch.tensor(1e-3), longest=4)
    assert narrow.tolist() == [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]


@pytest.mark.parametrize("steps", [1, 7, 40, 131])  # within a block, and several
@pytest.mark.parametrize("longest", [1, 6, 21])
def test_fast_forms_agree_with_the_references(steps: int, longest: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    known = torch.rand(steps + longest, 3, 5, generator=generator, requires_grad=True)
    axonal = torch.rand(5, longest + 1, generator=generator, requires_grad=True)
    synaptic = torch.randn(4, 5, longest + 1, generator=generator, requires_grad=True)
    for fast, reference, kernels in (
        (delayed_inputs, delayed_inputs_reference, axonal),
        (delayed_currents, delayed_currents_reference, synaptic),
    ):
        values = [form(known, kernels) for form in (fast, reference)]
        assert values[0].shape == values[1].shape == (steps, 3, 5 if kernels is axonal else 4)
        torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)
        weights = torch.randn(values[0].shape, generator=generator)
        grads = [torch.autograd.grad((v * weights).sum(), (known, kernels)) for v in values]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_kernel_at_one_tap_is_a_shift() -> None:
    known = torch.arange(1.0, 8.0).view(7, 1, 1).expand(7, 1, 2)
    kernels = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    delayed = delayed_inputs(known, kernels)[:, 0]
    torch.testing.assert_close(delayed[:, 0], torch.arange(3.0, 8.0))
    torch.testing.assert_close(delayed[:, 1], torch.arange(1.0, 6.0))
