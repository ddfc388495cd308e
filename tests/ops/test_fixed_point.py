"""Quantization to a few bits, against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from neuro.ops.fixed_point import quantization_error, quantization_scale, quantize


def test_the_largest_magnitude_maps_to_the_largest_integer() -> None:
    weight = torch.tensor([-1.27, 0.5, 0.004, 0.006])
    assert float(quantization_scale(weight, 8)) == pytest.approx(0.01)
    expected = torch.tensor([-1.27, 0.5, 0.0, 0.01])
    torch.testing.assert_close(quantize(weight, 8), expected)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_levels_fit_into_the_bits_and_zero_stays_zero(bits: int) -> None:
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    levels = quantize(weight, bits) / quantization_scale(weight, bits)
    torch.testing.assert_close(levels, levels.round(), atol=1e-2, rtol=0)
    assert levels.abs().max() <= 2 ** (bits - 1) - 1 + 1e-2
    assert quantize(weight, bits)[0] == 0
    torch.testing.assert_close(quantize(quantize(weight, bits), bits), quantize(weight, bits))


def test_the_error_is_relative_and_falls_with_the_bits() -> None:
    weight = torch.tensor([1.0, 0.4])
    assert quantization_error(weight, 2) == pytest.approx(0.4 / 1.16**0.5)  # levels -1, 0, 1
    errors = [quantization_error(torch.linspace(-1, 1, 101), bits) for bits in (2, 4, 8, 12)]
    assert errors == sorted(errors, reverse=True)
    assert quantization_error(3 * weight, 4) == pytest.approx(
        quantization_error(weight, 4), rel=1e-4
    )


def test_a_tensor_of_zeros_has_no_error() -> None:
    zeros = torch.zeros(3)
    assert quantization_error(zeros, 8) == 0.0
    assert torch.equal(quantize(zeros, 8), zeros)
