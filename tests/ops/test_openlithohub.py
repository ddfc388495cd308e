"""Images against OpenLithoHub's Hopkins simulator, which is independent of ours.

Its defocus is parabolic, like Zernike polynomial 4. It places source points on the mask's
frequency grid, with weights by how many points of a polar grid fall there; its points and weights
are given to our simulator.
"""

from __future__ import annotations

import pytest
import torch

from neuro.ops import optics
from neuro.ops.optics import Lens, SourcePoints

hopkins = pytest.importorskip(
    "openlithohub._utils.hopkins", reason="pip install --pre openlithohub (Python up to 3.12)"
)

WAVELENGTH_NM, NA, SIGMA_OUTER, SIGMA_INNER, PIXEL_NM = 193.0, 0.7, 0.8, 0.4, 25.0


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("shape", ["circular", "annular", "dipole", "quasar"])
@pytest.mark.parametrize("defocus_nm", [0.0, 100.0])
def test_images_agree(size: int, shape: str, defocus_nm: float) -> None:
    settings = hopkins.HopkinsParams(
        wavelength_nm=WAVELENGTH_NM, na=NA, sigma=SIGMA_OUTER, sigma_inner=SIGMA_INNER,
        pixel_size_nm=PIXEL_NM, num_kernels=size**2, illumination=shape, defocus_nm=defocus_nm,
        pole_opening_deg=40.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(size, size)
    for _ in range(6):
        y, x = torch.randint(size - 12, (2,), generator=generator).tolist()
        mask[y : y + 12, x : x + 6] = 1
    theirs = hopkins.simulate_aerial_image_hopkins(mask, settings)
    theirs = theirs / hopkins.simulate_aerial_image_hopkins(torch.ones_like(mask), settings).mean()

    shifts, weights = hopkins._illumination_samples(settings, size, torch.device("cpu"))
    shifts = (shifts + size // 2) % size - size // 2
    points = shifts.double() * WAVELENGTH_NM / (NA * size * PIXEL_NM)
    source = SourcePoints(points, weights.double() / weights.sum())
    waves = defocus_nm * NA**2 / (4 * WAVELENGTH_NM)
    lens = Lens(WAVELENGTH_NM, NA, aberrations={4: waves})
    extent = size * PIXEL_NM
    rows = optics.amplitude_matrix(source, lens, lens.passed(extent, 1.0), extent)
    ours = optics.abbe_image(mask.double(), rows)
    assert (ours - theirs).abs().max() < 1e-3
