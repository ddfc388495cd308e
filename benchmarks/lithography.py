"""Aerial images: pairs of real fields on the coarsest grid, against fields on the mask's grid.

The baseline is the usual way: a product of whole spectra and an inverse FFT of the mask's size for
each kernel, for all kernels at once. Where OpenLithoHub is installed (extra `openlithohub`), its
simulator is measured, too. Making a data set is timed as it is.
"""

from __future__ import annotations

import tempfile
import time

import torch
from torch import Tensor

from benchmarks.harness import Comparison, compare, print_table
from neuro.data.simulated.lithography import Lithography
from neuro.data.simulated.optics import Optics
from neuro.ops.optics import paired_kernels, socs_image

KERNELS = 24


def usual(mask: Tensor, kernels: Tensor) -> Tensor:
    """Images `[B, H, W]` by kernels that are padded to the mask's spectrum."""
    height, width = mask.shape[-2:]
    n = kernels.shape[-1]
    rows = torch.arange(-(n // 2), n // 2 + 1)
    padded = kernels.new_zeros(len(kernels), height, width)
    padded[:, (rows % height)[:, None], rows % width] = kernels
    fields = torch.fft.ifft2(torch.fft.fft2(mask)[:, None] * padded)
    return fields.abs().square().sum(1)


def _kernels(na: float, extent_nm: float) -> tuple[Tensor, Tensor]:
    """The kernels of default optics, and their pairs, with which data are made."""
    kernels = Optics(na=na).kernels(extent_nm, KERNELS).values
    return kernels.to(torch.complex64), paired_kernels(kernels).to(torch.complex64)


def measure(rounds: int = 7) -> list[Comparison]:
    """Forward passes of dry and immersion optics, on small and large tiles."""
    comparisons = []
    for na, pixel_nm in ((0.7, 25.0), (1.35, 8.0)):
        for size, batch in ((64, 16), (256, 1)):
            kernels, pairs = _kernels(na, size * pixel_nm)
            masks = (torch.rand(batch, size, size) > 0.5).float()
            torch.testing.assert_close(
                socs_image(masks, pairs), usual(masks, kernels), atol=1e-4, rtol=1e-4
            )
            comparisons.append(
                compare(
                    f"NA {na:g}, {batch} x {size} x {size}",
                    lambda m=masks, k=kernels: usual(m, k),  # type: ignore[misc]
                    lambda m=masks, k=pairs: socs_image(m, k),  # type: ignore[misc]
                    rounds=rounds,
                )
            )
    return comparisons


def against_openlithohub() -> list[Comparison]:
    """Forward passes of single masks; none without the package."""
    try:
        from openlithohub._utils import hopkins
    except ImportError:
        return []
    comparisons = []
    for na, pixel_nm in ((0.7, 25.0), (1.35, 8.0)):
        for size in (64, 256):
            settings = hopkins.HopkinsParams(
                na=na, sigma=0.8, sigma_inner=0.4, pixel_size_nm=pixel_nm, illumination="annular",
                num_kernels=KERNELS,
            )  # fmt: skip
            theirs = hopkins.compute_socs_kernels(settings, size)
            _, pairs = _kernels(na, size * pixel_nm)
            mask = (torch.rand(size, size) > 0.5).float()
            comparisons.append(
                compare(
                    f"NA {na:g}, {size} x {size}",
                    lambda m=mask, s=settings, t=theirs: (  # type: ignore[misc]
                        hopkins.simulate_aerial_image_hopkins(m, s, *t)
                    ),
                    lambda m=mask, k=pairs: socs_image(m, k),  # type: ignore[misc]
                )
            )
    return comparisons


def main() -> None:
    title = f"Aerial images by {KERNELS} kernels, forward"
    print_table(title, measure(), baseline="mask's grid", candidate="coarse grid")
    if found := against_openlithohub():
        print_table(title, found, baseline="OpenLithoHub", candidate="coarse grid")
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        data = Lithography(optics=Optics(), root=root, train=160, val=20, test=20)
        data.prepare()
        print(f"making 1000 masks of 64 x 64 and their images: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
