"""Metrics of images against definitions, closed forms and generated shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from neuro.learning.imaging import (
    SSIM,
    ContourIoU,
    CriticalDimensionError,
    EdgePlacementError,
    PixelAccuracy,
)
from neuro.learning.metrics import Metric

PIXEL_NM = 20.0


def value(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    """The metric accumulated over two batches."""
    half = len(outputs) // 2
    parts = [(outputs[:half], targets[:half]), (outputs[half:], targets[half:])]
    return metric.value(torch.stack([metric.sums(x, y) for x, y in parts]).sum(0))


def smooth_images(count: int = 4, size: int = 32) -> Tensor:
    noise = np.random.default_rng(0).random((count, 1, size, size))
    smooth = gaussian_filter(noise, (0, 0, 3, 3), mode="wrap")
    return torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth)).float()


def shifted(images: Tensor, down: float, right: float) -> Tensor:
    """Shift by fractions of a pixel with the Fourier series."""
    fy, fx = (torch.fft.fftfreq(size) for size in images.shape[-2:])
    phase = torch.exp(-2j * math.pi * (fy[:, None] * down + fx * right))
    return torch.fft.ifft2(torch.fft.fft2(images) * phase).real


def test_ssim_is_its_definition() -> None:
    x, y = smooth_images(), smooth_images().flip(-1)

    def local(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (0, 0, 1.5, 1.5), mode="wrap", truncate=3.5)

    a, b = x.double().numpy(), y.double().numpy()
    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    assert value(SSIM(), x, y) == pytest.approx(expected.mean(), abs=1e-5)
    assert value(SSIM(), x, x) == pytest.approx(1.0)
    assert value(SSIM(peak=10.0), x, y) > value(SSIM(), x, y)
    assert value(SSIM(sigma=3.0), x, y) != value(SSIM(), x, y)


def test_metrics_of_thresholded_images() -> None:
    targets, outputs = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    targets[:, :, :2] = 1.0  # 8 pixels each
    outputs[:, :, 1:3] = 0.3  # 8 each, of which 4 are correct
    assert value(ContourIoU(), outputs, targets) == pytest.approx(4 / 12)
    assert value(PixelAccuracy(), outputs, targets) == pytest.approx(8 / 16)
    assert value(ContourIoU(threshold=0.5), outputs, targets) == 0.0
    assert value(PixelAccuracy(threshold=0.5), outputs, targets) == pytest.approx(0.5)
    assert value(ContourIoU(), outputs * 0, targets * 0) == 1.0


@pytest.mark.parametrize("shift", [0.0, 0.3, -1.4, 2.6])
def test_shifted_lines(shift: float) -> None:
    """Edges of vertical lines are displaced by the shift along rows; widths stay."""
    x = torch.arange(32) / 32
    lines = (0.3 + 0.25 * torch.cos(2 * math.pi * 2 * x)).expand(4, 1, 32, 32)
    moved = shifted(lines, 0.0, shift)
    for images, others in ((moved, lines), (moved.mT, lines.mT)):
        epe = value(EdgePlacementError(PIXEL_NM, threshold=0.3), images, others)
        assert epe == pytest.approx(abs(shift) * PIXEL_NM, abs=0.5)
        error = value(CriticalDimensionError(PIXEL_NM, threshold=0.3), images, others)
        assert error == pytest.approx(0, abs=0.5)


def test_wider_lines() -> None:
    """Wider lines: cos crosses -0.1 / 0.25 outside of its zeros, on both sides."""
    x = torch.arange(64) / 64
    lines = (0.3 + 0.25 * torch.cos(2 * math.pi * 2 * x)).expand(2, 1, 64, 64)
    edge = math.asin(0.1 / 0.25) / (2 * math.pi * 2) * 64 * PIXEL_NM
    brighter = lines + 0.1
    assert value(EdgePlacementError(PIXEL_NM, 0.3), brighter, lines) == pytest.approx(
        edge, rel=0.02
    )
    found = value(CriticalDimensionError(PIXEL_NM, 0.3), brighter, lines)
    assert found == pytest.approx(2 * edge, rel=0.02)


def test_missing_edges_count_as_the_reach() -> None:
    x = torch.arange(32) / 32
    lines = (0.3 + 0.25 * torch.cos(2 * math.pi * x)).expand(2, 1, 32, 32)
    dark = torch.zeros_like(lines)
    for reach in (100.0, 150.0):
        metric = EdgePlacementError(PIXEL_NM, threshold=0.3, reach_nm=reach)
        assert value(metric, dark, lines) == pytest.approx(reach)
    assert value(EdgePlacementError(PIXEL_NM, 0.3), lines, dark) == 0.0  # the target has no edges
    assert value(CriticalDimensionError(PIXEL_NM, 0.3), lines, dark) == 0.0


def test_two_dimensional_shapes_shifted_across_the_edge_of_the_tile() -> None:
    images = smooth_images(size=48)
    moved = shifted(images, 0.5, 0.5).roll((20, -30), (-2, -1))
    epe = value(EdgePlacementError(PIXEL_NM, 0.5), moved, images.roll((20, -30), (-2, -1)))
    assert 0.5 * PIXEL_NM < epe < 0.5 * math.sqrt(2) * PIXEL_NM * 1.2
    same = value(EdgePlacementError(PIXEL_NM, 0.5), images, images)
    assert same == pytest.approx(0, abs=1e-4)
