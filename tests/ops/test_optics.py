"""Imaging against closed forms, against its definition, and Abbe against SOCS."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neuro.ops import optics
from neuro.ops.optics import Lens, SourcePoints

WAVELENGTH_NM, NA = 193.0, 0.7
PIXEL_NM, SIZE = 25.0, 48
LENS = Lens(WAVELENGTH_NM, NA)
ANNULAR = optics.source_points("annular", 0.8, 0.4, samples=11)
ON_AXIS = SourcePoints(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


def matrix(
    source: SourcePoints = ANNULAR, sigma: float = 0.8, size: int = SIZE, **more: object
) -> Tensor:
    lens, extent = replace(LENS, **more), size * PIXEL_NM
    return optics.amplitude_matrix(source, lens, lens.passed(extent, sigma), extent)


def random_masks(count: int = 3, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, size, size, generator=generator) > 0.5).double()


def by_definition(mask: Tensor, source: SourcePoints, **more: object) -> Tensor:
    """The sum over source points, each by FFTs of the whole grid."""
    axis = torch.fft.fftfreq(mask.shape[-1], PIXEL_NM, dtype=torch.float64) * WAVELENGTH_NM / NA
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image, clear = torch.zeros_like(mask), 0.0
    for point, weight in zip(source.points, source.weights, strict=True):
        passed = optics.pupil(y + point[0], x + point[1], replace(LENS, **more))
        image += weight * torch.fft.ifft2(torch.fft.fft2(mask) * passed).abs().square()
        clear += float(weight * passed[0, 0].abs() ** 2)
    return image / clear


@pytest.mark.parametrize("size", [48, 45])
@pytest.mark.parametrize("more", [{}, {"defocus_nm": 150.0}, {"aberrations": {7: 0.1, 9: 0.05}}])
def test_abbe_is_its_definition(size: int, more: dict[str, object]) -> None:
    masks = random_masks(size=size)
    image = optics.abbe_image(masks, matrix(size=size, **more))
    torch.testing.assert_close(image, by_definition(masks, ANNULAR, **more))


def test_kernels_converge_to_abbes_image() -> None:
    rows, masks = matrix(defocus_nm=80.0), random_masks()
    expected = optics.abbe_image(masks, rows)
    kernels = optics.socs_kernels(rows)
    torch.testing.assert_close(optics.socs_image(masks, kernels.values), expected)
    assert kernels.energy[-1].item() == pytest.approx(1.0)
    assert (kernels.energy.diff() >= -1e-12).all()
    errors = [
        (optics.socs_image(masks, optics.socs_kernels(rows, n).values) - expected).abs().max()
        for n in (4, 12, 24)
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("count", "pairs"), [(24, 12), (7, 4)])
@pytest.mark.parametrize("shape", ["circular", "annular", "dipole", "quasar"])
def test_in_focus_half_as_many_kernels_have_the_same_image(
    shape: optics.SourceShape, count: int, pairs: int
) -> None:
    source = optics.source_points(shape, 0.8, 0.4)
    kernels = optics.socs_kernels(matrix(source), count).values
    mask = random_masks()
    paired = optics.paired_kernels(kernels)
    assert len(paired) == pairs
    torch.testing.assert_close(optics.socs_image(mask, paired), optics.socs_image(mask, kernels))
    single = optics.paired_kernels(kernels.to(torch.complex64))
    assert len(single) == pairs


@pytest.mark.parametrize("lens", [{"defocus_nm": 80.0}, {"aberrations": {9: 0.05}}])
def test_kernels_with_complex_fields_are_not_paired(lens: dict[str, object]) -> None:
    kernels = optics.socs_kernels(matrix(**lens), 24).values
    assert optics.paired_kernels(kernels) is kernels


def test_a_clear_mask_has_the_intensity_of_the_dose() -> None:
    rows = matrix(defocus_nm=200.0)
    for kernels in (rows, optics.socs_kernels(rows, 5).values):
        image = optics.socs_image(torch.ones(SIZE, SIZE, dtype=torch.float64), kernels, 1.5)
        torch.testing.assert_close(image, torch.full_like(image, 1.5))


def test_a_grating_of_two_beams() -> None:
    """Coherent light, and a pitch at which the orders 0 and +-1 pass: a0 + 2 a1 cos(2 pi x / p)."""
    pitch = 16
    bright = 5
    mask = torch.zeros(SIZE, SIZE, dtype=torch.float64)
    for start in range(0, SIZE, pitch):
        mask[:, start : start + bright] = 1
    image = optics.abbe_image(mask, matrix(ON_AXIS, sigma=0.0))
    first, order = bright / pitch, math.sin(math.pi * bright / pitch)
    order /= pitch * math.sin(math.pi / pitch)
    assert 1 / (pitch * PIXEL_NM) < NA / WAVELENGTH_NM < 2 / (pitch * PIXEL_NM)
    x = torch.arange(SIZE, dtype=torch.float64) - (bright - 1) / 2
    expected = (first + 2 * order * torch.cos(2 * math.pi * x / pitch)).square()
    torch.testing.assert_close(image, expected.expand(SIZE, SIZE))


def test_a_pinhole_has_an_airy_pattern() -> None:
    """(2 J1(v) / v)^2 with v = 2 pi NA r / lambda, in a tile of many rings."""
    size = 240
    mask = torch.zeros(size, size, dtype=torch.float64)
    mask[0, 0] = 1
    image = optics.abbe_image(mask, matrix(ON_AXIS, sigma=0.0, size=size))
    profile = image[0, :24] / image[0, 0]
    v = 2 * math.pi * NA / WAVELENGTH_NM * PIXEL_NM * torch.arange(24, dtype=torch.float64)
    airy = (2 * torch.special.bessel_j1(v[1:]) / v[1:]).square()
    torch.testing.assert_close(profile[1:], airy, atol=2e-3, rtol=0)


def test_phases_conserve_the_total_intensity() -> None:
    """Defocus and aberrations redistribute light; the sum over the tile is constant."""
    masks = random_masks()
    sharp, blurred = (
        optics.abbe_image(masks, matrix(**more)).sum((1, 2))
        for more in ({}, {"defocus_nm": 300.0, "aberrations": {5: 0.1}})
    )
    torch.testing.assert_close(sharp, blurred)


def test_defocus_and_aberrations_change_the_image_of_a_shifted_pupil() -> None:
    masks = random_masks(1)
    images = [
        optics.abbe_image(masks, matrix(**more))
        for more in ({}, {"defocus_nm": 200.0}, {"aberrations": {9: 0.1}})
    ]
    for other in images[1:]:
        assert (other - images[0]).abs().max() > 0.005  # of 0.25 in random masks


@pytest.mark.parametrize(
    ("shape", "turns"), [("circular", 1), ("annular", 1), ("quasar", 1), ("dipole", 2)]
)
def test_images_have_the_symmetry_of_the_source(shape: optics.SourceShape, turns: int) -> None:
    source = optics.source_points(shape, 0.8, 0.4, opening_deg=40.0, samples=21)
    rows, mask = matrix(source), random_masks(1)[0]
    image = optics.abbe_image(mask, rows)
    for k in range(1, 4):
        turned = optics.abbe_image(torch.rot90(mask, k), rows)
        same = torch.allclose(turned, torch.rot90(image, k), atol=1e-9)
        assert same == (k % turns == 0)


def test_sources() -> None:
    assert ANNULAR.weights.sum().item() == pytest.approx(1)
    radius = ANNULAR.points.norm(dim=1)
    assert radius.min() >= 0.4 and radius.max() <= 0.8
    dipole = optics.source_points("dipole", 0.9, 0.6, opening_deg=30, rotation_deg=90, samples=41)
    y, x = dipole.points.T
    assert (y.abs() > 2 * x.abs()).all() and (y > 0).any() and (y < 0).any()
    quasar = optics.source_points("quasar", 0.9, 0.6, opening_deg=30, samples=41)
    angle = torch.rad2deg(torch.atan2(quasar.points[:, 0], quasar.points[:, 1])) % 90
    assert ((angle - 45).abs() <= 15 + 1e-6).all()
    with pytest.raises(ValueError, match="no point"):
        optics.source_points("annular", 0.8, 0.799, samples=5)


def test_fringe_zernike_polynomials() -> None:
    r = torch.linspace(0, 1, 7, dtype=torch.float64)
    a = torch.linspace(-3, 3, 7, dtype=torch.float64)
    expected = {
        1: torch.ones_like(r), 2: r * a.cos(), 3: r * a.sin(), 4: 2 * r**2 - 1,
        5: r**2 * (2 * a).cos(), 6: r**2 * (2 * a).sin(), 7: (3 * r**3 - 2 * r) * a.cos(),
        8: (3 * r**3 - 2 * r) * a.sin(), 9: 6 * r**4 - 6 * r**2 + 1,
        10: r**3 * (3 * a).cos(), 16: 20 * r**6 - 30 * r**4 + 12 * r**2 - 1,
    }  # fmt: skip
    for index, polynomial in expected.items():
        torch.testing.assert_close(optics.zernike(index, r, a), polynomial)


def test_defocus_is_about_the_fourth_polynomial_at_small_angles() -> None:
    """The path difference z NA^2 r^2 / 2 is -z NA^2 / (4 lambda) waves of Z4 and a piston."""
    lens = Lens(WAVELENGTH_NM, 0.1)
    y, x = lens.frequencies(9, 4 * WAVELENGTH_NM / 0.1)
    defocus = optics.pupil(y, x, replace(lens, defocus_nm=500.0))
    waves = -500.0 * 0.1**2 / (4 * WAVELENGTH_NM)
    z4 = optics.pupil(y, x, replace(lens, aberrations={4: waves}))
    inside = defocus.abs() > 0
    ratio = (defocus[inside] / z4[inside]).angle()
    assert (ratio - ratio.mean()).abs().max() < 1e-3


def test_gradients_of_mask_dose_defocus_and_kernels() -> None:
    mask = torch.rand(12, 12, dtype=torch.float64, requires_grad=True)
    source = optics.source_points("circular", 0.3, samples=3)
    dose, defocus = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.1, 90.0))

    def image(mask: Tensor, dose: Tensor, defocus: Tensor) -> Tensor:
        rows = optics.amplitude_matrix(source, replace(LENS, defocus_nm=defocus), 5, 300.0)
        return optics.abbe_image(mask, rows, dose)

    assert torch.autograd.gradcheck(image, (mask, dose, defocus))
    kernels = torch.randn(2, 5, 5, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(optics.socs_image, (mask, kernels, dose))


def test_float32_and_batches_of_any_shape() -> None:
    rows, masks = matrix(), random_masks(6)
    expected = optics.abbe_image(masks, rows)
    kernels = rows.to(torch.complex64)
    found = optics.socs_image(masks.float().reshape(2, 3, SIZE, SIZE), kernels)
    assert found.shape == (2, 3, SIZE, SIZE) and found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(0, 1).double(), expected, atol=2e-6, rtol=0)


def test_a_tile_with_too_few_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 9 frequencies"):
        optics.socs_image(torch.ones(8, 8), torch.ones(1, 9, 9, dtype=torch.complex64))
    dark = optics.source_points("annular", 1.5, 1.4, samples=21)
    with pytest.raises(ValueError, match="stays dark"):
        optics.amplitude_matrix(dark, LENS, 9, 1000.0)
