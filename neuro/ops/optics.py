"""Scalar, partially coherent imaging of thin masks that repeat in both directions.

Frequencies are in units of NA / wavelength, so that the pupil is the unit disc and a source point
sigma lies at the frequency sigma. A mask `[..., H, W]` with spectrum M has the aerial image

    I(x) = sum_s w_s |IFFT(M(f) P(f + s))(x)|^2                  (Abbe: `abbe_image`)
         = sum_k |IFFT(M(f) phi_k(f))(x)|^2                      (SOCS: `socs_image`)

where P is the complex pupil (`pupil`), s are points of the source with weights w_s, and phi_k are
right singular vectors, times singular values, of the matrix sqrt(w_s) P(f + s) of source points by
frequencies (`socs_kernels`). All kernels together give Abbe's image; the four-dimensional
transmission cross-coefficient of Hopkins is never formed. (Wong, Resolution Enhancement Techniques
in Optical Lithography, 2001; Cobb, PhD thesis, Berkeley 1998.)

Both are normalised by the image of a clear mask, so that a dose of 1 exposes a clear field to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SourceShape = Literal["circular", "annular", "dipole", "quasar"]

#: complex values of one chunk of fields, which limits memory where there is no gradient
_CHUNK = 1 << 22


class SourcePoints(NamedTuple):
    """Points `[S, 2]` of a source (y, x) in units of NA / wavelength; weights `[S]`, sum 1."""

    points: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Lens:
    """A lens in a medium of refractive `index`.

    `aberrations` are coefficients of Fringe Zernike polynomials in waves; `defocus_nm` is the
    distance of the wafer from focus and may be a scalar tensor with a gradient.
    """

    wavelength_nm: float
    na: float
    index: float = 1.0
    defocus_nm: float | Tensor = 0.0
    aberrations: Mapping[int, float] = field(default_factory=dict)

    def frequencies(self, n: int, extent_nm: float) -> tuple[Tensor, Tensor]:
        """The n (odd) lowest frequencies (y, x) `[n, n]` of a square tile, zero in the middle."""
        axis = torch.arange(-(n // 2), n // 2 + 1, dtype=torch.float64)
        axis = axis * self.wavelength_nm / (self.na * extent_nm)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return y, x

    def passed(self, extent_nm: float, sigma: float) -> int:
        """Frequencies per axis of a square tile that pass from a source of radius sigma; odd."""
        return 2 * math.floor((1 + sigma) * self.na / self.wavelength_nm * extent_nm + 1e-9) + 1


class Kernels(NamedTuple):
    """SOCS kernels in the frequency domain, `[K, n, n]` complex, the strongest first.

    They hold the lowest n frequencies of each axis, zero in the middle. `energy [K]` is the part
    of the sum of all squared singular values that the first kernels have.
    """

    values: Tensor
    energy: Tensor


def source_points(
    shape: SourceShape,
    sigma_outer: float,
    sigma_inner: float = 0.0,
    *,
    opening_deg: float = 90.0,
    rotation_deg: float = 0.0,
    samples: int = 31,
) -> SourcePoints:
    """Sample a source of uniform brightness on `samples` points across its diameter.

    A dipole has its poles at `rotation_deg` and opposite, a quasar at 45 degrees, every 90, plus
    `rotation_deg`; `opening_deg` is the angle that a pole spans. ValueError if no point lies in
    the source.
    """
    axis = sigma_outer * (2 * torch.arange(samples, dtype=torch.float64) + 1 - samples) / samples
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.hypot(y, x)
    inside = radius <= sigma_outer
    if shape != "circular":
        inside &= radius >= sigma_inner
    if shape in ("dipole", "quasar"):
        period = 180.0 if shape == "dipole" else 90.0
        first = rotation_deg + (0.0 if shape == "dipole" else 45.0)
        angle = torch.rad2deg(torch.atan2(y, x)) - first
        from_pole = (angle + period / 2) % period - period / 2
        # a point on a border belongs to the pole, whatever its angle was rounded to
        inside &= from_pole.abs() <= opening_deg / 2 + 1e-9
    points = torch.stack([y[inside], x[inside]], -1)
    if not len(points):
        raise ValueError(f"the {shape} source has no point on a grid of {samples} x {samples}")
    return SourcePoints(points, torch.full((len(points),), 1 / len(points), dtype=torch.float64))


def zernike(index: int, radius: Tensor, angle: Tensor) -> Tensor:
    """The Fringe Zernike polynomial of `index` (1: piston), with a largest value of 1.

    Fringe numbers: (1 + (n + |m|) / 2)^2 - 2 |m| + (1 if m < 0 else 0) for degree n and angular
    frequency m (Wyant and Creath, Applied Optics and Optical Engineering XI, 1992). 4 is defocus,
    5 and 6 astigmatism, 7 and 8 coma, 9 spherical aberration.
    """
    order = math.isqrt(index - 1)  # (n + |m|) / 2
    rest = order**2 + 2 * order + 1 - index
    m = (rest + 1) // 2
    n = 2 * order - m
    radial = torch.zeros_like(radius)
    for k in range((n - m) // 2 + 1):
        factor = (-1) ** k * math.factorial(n - k)
        factor //= math.factorial(k)
        factor //= math.factorial((n + m) // 2 - k) * math.factorial((n - m) // 2 - k)
        radial = radial + factor * radius ** (n - 2 * k)
    return radial * (torch.sin(m * angle) if rest % 2 else torch.cos(m * angle))


def pupil(y: Tensor, x: Tensor, lens: Lens) -> Tensor:
    """The complex pupil at frequencies (y, x): 0 outside of the unit disc, unit modulus inside.

    Defocus is the exact phase of a plane wave in the medium, 2 pi / lambda z (sqrt(index^2 -
    NA^2 r^2) - index).
    """
    square = y.square() + x.square()
    inside = square <= 1 + 1e-12
    radius = square.clamp(max=1.0)
    path = torch.sqrt(lens.index**2 - lens.na**2 * radius) - lens.index  # in units of z
    phase = 2 * math.pi / lens.wavelength_nm * lens.defocus_nm * path
    if lens.aberrations:
        distance, angle = radius.sqrt(), torch.atan2(y, x)
        for number, waves in lens.aberrations.items():
            phase = phase + 2 * math.pi * waves * zernike(number, distance, angle)
    wave = torch.polar(torch.ones_like(phase), phase)
    return torch.where(inside, wave, torch.zeros_like(wave))


def amplitude_matrix(source: SourcePoints, lens: Lens, n: int, extent_nm: float) -> Tensor:
    """sqrt(w_s) P(f + s) `[S, n, n]` of source points by frequencies, for a clear field of 1.

    ValueError if a clear mask stays dark.
    """
    y, x = lens.frequencies(n, extent_nm)
    at = source.points[:, :, None, None]
    rows = pupil(y + at[:, 0], x + at[:, 1], lens) * source.weights.sqrt()[:, None, None]
    clear = rows[:, n // 2, n // 2].abs().square().sum()
    if float(clear.detach()) == 0:
        raise ValueError("a clear mask stays dark: no source point lies in the pupil")
    return rows / clear.sqrt()


def socs_kernels(rows: Tensor, count: int | None = None) -> Kernels:
    """The `count` strongest kernels of an amplitude matrix `[S, n, n]`; None: all there are.

    They are scaled to a clear field of 1, which the truncated ones would miss.
    """
    n = rows.shape[-1]
    seen = rows.abs().amax(0) > 0  # other frequencies never pass
    passed = rows[:, seen]
    if not rows.requires_grad and not passed.imag.any():
        passed = passed.real  # equally strong vectors would come as any complex mixture
    _, strengths, vectors = torch.linalg.svd(passed, full_matrices=False)
    squares = strengths.square()
    chosen = slice(count)
    values = rows.new_zeros(len(strengths[chosen]), n, n)
    values[:, seen] = (strengths[chosen, None] * vectors[chosen]).to(rows.dtype)
    clear = values[:, n // 2, n // 2].abs().square().sum()
    return Kernels(values / clear.sqrt(), squares[chosen].cumsum(0) / squares.sum())


def paired_kernels(kernels: Tensor) -> Tensor:
    """Half as many kernels with the same images of real masks, where fields are real; else all.

    A kernel `[n, n]` with phi(-f) = conj(phi(f)), up to a constant phase, has a real field. Two
    real fields a and b fit in a complex one, |a + ib|^2 = a^2 + b^2. That is so in focus, for a
    source that is symmetric about the axis and a lens without aberrations, or with odd ones.
    """
    strength = kernels.abs().square().sum((-2, -1))
    product = (kernels * kernels.flip(-2, -1)).sum((-2, -1))  # strength times the squared phase
    tolerance = 10 * torch.finfo(kernels.real.dtype).eps * kernels[0].numel()
    if (product.abs() < (1 - tolerance) * strength).any():
        return kernels
    real = kernels * torch.exp(-0.5j * product.angle())[:, None, None]
    if len(real) % 2:
        real = torch.cat([real, torch.zeros_like(real[:1])])
    return real[::2] + 1j * real[1::2]


def socs_image(mask: Tensor, kernels: Tensor, dose: float | Tensor = 1.0) -> Tensor:
    """Aerial images `[..., H, W]` of masks by kernels `[K, n, n]`, differentiable in all of them.

    The squared fields have at most 2 n - 1 frequencies per axis, so that a grid of that size holds
    them exactly; their sum is brought to the grid of the mask by zero padding of its spectrum.
    ValueError if the mask's grid has fewer than n frequencies.
    """
    *lead, height, width = mask.shape
    n = kernels.shape[-1]
    spectrum = low_frequencies(mask.reshape(-1, height, width), n)
    coarse = _fast_length(2 * n - 1)
    scale = coarse**2 / (height * width)
    lowest = [
        _squared_fields(part, kernels * scale, coarse)
        for part in spectrum.split(max(1, _CHUNK // (len(kernels) * coarse**2)))
    ]
    image = _resampled(torch.cat(lowest), height, width)
    return dose * image.reshape(*lead, height, width)


def abbe_image(mask: Tensor, rows: Tensor, dose: float | Tensor = 1.0) -> Tensor:
    """Aerial images `[..., H, W]` of masks by an amplitude matrix `[S, n, n]`: one source point
    after the other, without truncation; differentiable also in what the pupil was made of.
    """
    return socs_image(mask, rows, dose)


def low_frequencies(mask: Tensor, n: int) -> Tensor:
    """The `n` lowest frequencies per axis, zero in the middle, of the spectra of `[B, H, W]`.

    ValueError if the grid has fewer.
    """
    height, width = mask.shape[-2:]
    if n > min(height, width):
        raise ValueError(f"a tile of {height} x {width} pixels has fewer than {n} frequencies")
    rows = torch.arange(-(n // 2), n // 2 + 1, device=mask.device)
    spectrum = torch.fft.fft2(mask)
    return spectrum[..., (rows % height)[:, None], rows % width]


def _squared_fields(spectrum: Tensor, kernels: Tensor, size: int) -> Tensor:
    """sum_k |field_k|^2 on a grid of `size` x `size`: `[B, size, size]`."""
    n = kernels.shape[-1]
    products = spectrum[:, None] * kernels.to(spectrum.dtype)
    pad = size - n  # at the end: a shift of all frequencies, which the modulus does not see
    fields = torch.fft.ifft2(torch.nn.functional.pad(products, (0, pad, 0, pad)))
    return torch.view_as_real(fields).square().sum((1, -1))


def _resampled(image: Tensor, height: int, width: int) -> Tensor:
    """Images `[B, n, n]` on another grid, by their Fourier series."""
    n = image.shape[-1]
    kept_y, kept_x = (min((n - 1) // 2, (size - 1) // 2) for size in (height, width))
    spectrum = torch.fft.rfft2(image)
    padded = spectrum.new_zeros(len(image), height, width // 2 + 1)
    padded[:, : kept_y + 1, : kept_x + 1] = spectrum[:, : kept_y + 1, : kept_x + 1]
    if kept_y:
        padded[:, -kept_y:, : kept_x + 1] = spectrum[:, -kept_y:, : kept_x + 1]
    return torch.fft.irfft2(padded, s=(height, width)) * (height * width / n**2)


def _fast_length(least: int) -> int:
    """The smallest length of at least `least` whose prime factors are 2, 3 and 5."""
    while True:
        rest = least
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return least
        least += 1
