"""Exact areas of polygons in pixels against sampling, analytic areas and hand-drawn masks."""

from __future__ import annotations

import numpy as np
import pytest

from neuro.data.simulated.raster import bands, coverage, oriented_edges, rasterised


def sampled(polygon: np.ndarray, height: int, width: int, samples: int = 100) -> np.ndarray:
    """Covered fraction of pixels from `samples`^2 points each, tested by ray crossings."""
    y, x = ((np.arange(side * samples) + 0.5) / samples for side in (height, width))
    inside = np.zeros((len(y), len(x)), bool)
    for (y0, x0), (y1, x1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if y0 != y1:
            crosses = ((y0 <= y) != (y1 <= y))[:, None]
            inside ^= crosses & (x < (x0 + (y - y0) / (y1 - y0) * (x1 - x0))[:, None])
    return inside.reshape(height, samples, width, samples).mean((1, 3))


def shoelace(polygon: np.ndarray) -> float:
    after = np.roll(polygon, -1, 0)
    return abs(float((polygon[:, 0] * after[:, 1] - polygon[:, 1] * after[:, 0]).sum())) / 2


def star(rng: np.random.Generator, middle: np.ndarray, radius: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
    distance = rng.uniform(0.2 * radius, radius, len(angles))[:, None]
    return middle + distance * np.stack([np.sin(angles), np.cos(angles)], 1)


@pytest.mark.parametrize("seed", range(12))
def test_areas_are_those_of_fine_sampling(seed: int) -> None:
    """Polygons of both orientations that also extend beyond the grid on all sides."""
    rng = np.random.default_rng(seed)
    polygon = star(rng, rng.uniform(0, 10, 2), 8.0)[:: 1 if seed % 2 else -1]
    area = coverage(oriented_edges([polygon]), 10, 12)
    np.testing.assert_allclose(area, sampled(polygon, 10, 12), atol=0.015)


@pytest.mark.parametrize("seed", range(5))
def test_the_total_area_is_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [star(rng, np.array([15.0, 15 + 30 * k]), 14.0) for k in range(3)]
    area = coverage(oriented_edges(polygons), 30, 90)
    assert area.sum() == pytest.approx(sum(map(shoelace, polygons)), abs=1e-9)
    assert area.min() > -1e-12 and area.max() < 1 + 1e-12


def test_rectangles_with_a_hole_are_exact() -> None:
    outer = np.array([[0.5, 1], [0.5, 4.25], [3, 4.25], [3, 1]])
    ring = np.array(  # its inner border is connected to the outer one by a line in both directions
        [[0, 0], [0, 3], [1, 3], [1, 2], [2, 2], [2, 3], [1, 3], [0, 3], [0, 4], [3, 4], [3, 0]]
    )
    np.testing.assert_array_equal(
        coverage(oriented_edges([outer]), 3, 6),
        [[0, 0.5, 0.5, 0.5, 0.125, 0], [0, 1, 1, 1, 0.25, 0], [0, 1, 1, 1, 0.25, 0]],
    )
    np.testing.assert_array_equal(
        coverage(oriented_edges([ring.astype(float)]), 3, 4), [[1] * 4, [1, 1, 0, 1], [1] * 4]
    )
    np.testing.assert_array_equal(coverage(oriented_edges([]), 2, 2), np.zeros((2, 2)))


@pytest.mark.parametrize("width", [0.5, 0.499, 1.5, 1.499])
@pytest.mark.parametrize("height", [1, 3])
def test_a_pixel_is_bright_if_half_of_it_is_covered(width: float, height: int) -> None:
    box = np.array([[0, 2], [0, 2 + width], [height, 2 + width], [height, 2]])
    mask = rasterised(oriented_edges([box]), height, 5)
    np.testing.assert_array_equal(mask[:, 2 + int(width)], int(width % 1 == 0.5))


def test_bands_are_centred_with_y_upwards() -> None:
    lower = np.array([[-500.0, 700], [-300, 700], [-300, 800], [-500, 800]])  # 8 x 4 pixels
    upper = np.array([[-500.0, 800], [-450, 800], [-450, 900], [-500, 900]])  # 2 x 4 pixels
    (mask,) = bands([lower, upper], 25.0, 12)
    expected = np.zeros((12, 12), int)
    expected[2:6, 2:4] = expected[6:10, 2:10] = 1
    np.testing.assert_array_equal(mask, expected)
    tall = np.concatenate(list(bands([lower, upper], 25.0, 6)))
    assert tall.shape == (12, 12) and tall.sum() == 40
    np.testing.assert_array_equal(tall, expected)
