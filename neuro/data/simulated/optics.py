"""Settings of a projection system, checked, and the kernels that they give (`ops.optics`)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from neuro.config.types import STRICT
from neuro.data.transforms import Flip, Rotate, Shift, Transform
from neuro.errors import ConfigError
from neuro.ops import optics as ops
from neuro.ops.optics import Kernels, Lens, SourcePoints, SourceShape

#: refractive index of water at 193 nm (Burnett & Kaplan, J. Microlith. 3, 2004)
WATER = 1.44

#: turns by 90 and 180 degrees, and mirrors that reverse rows or columns
Symmetry = Literal["quarter turn", "half turn", "horizontal flip", "vertical flip"]
_SYMMETRIES: dict[Symmetry, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "quarter turn": lambda y, x: (-x, y),
    "half turn": lambda y, x: (-y, -x),
    "horizontal flip": lambda y, x: (y, -x),
    "vertical flip": lambda y, x: (-y, x),
}
_ZERNIKE = re.compile(r"Z([1-9]\d?)")


@dataclass(frozen=True)
class Source:
    """A source of uniform brightness; sigmas are in units of NA / wavelength."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    shape: SourceShape = "annular"
    sigma_outer: Annotated[float, Gt(0), Le(1)] = 0.8
    sigma_inner: Annotated[float, Ge(0), Le(1)] = 0.4
    opening_deg: Annotated[float, Gt(0), Le(180)] = 90.0
    rotation_deg: float = 0.0
    samples: Annotated[int, Ge(3), Le(201)] = 31

    def __post_init__(self) -> None:
        if self.shape != "circular" and self.sigma_inner >= self.sigma_outer:
            raise ValueError(
                f"sigma_inner: got {self.sigma_inner:g}; expected less than sigma_outer "
                f"({self.sigma_outer:g})"
            )
        if self.shape == "quasar" and self.opening_deg > 90:
            raise ValueError(
                f"opening_deg: got {self.opening_deg:g}; the four poles of a quasar span at most 90"
            )
        self.points()

    def points(self) -> SourcePoints:
        """Points and weights of the source."""
        return ops.source_points(
            self.shape,
            self.sigma_outer,
            self.sigma_inner,
            opening_deg=self.opening_deg,
            rotation_deg=self.rotation_deg,
            samples=self.samples,
        )


@dataclass(frozen=True)
class Optics:
    """A projection system: wavelength, numerical aperture, source, focus, aberrations and dose.

    `aberrations` are coefficients in waves of Fringe Zernike polynomials, as in `{Z9: 0.02}`.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    wavelength_nm: Annotated[float, Gt(0)] = 193.0
    na: Annotated[float, Gt(0)] = 0.7
    index: Annotated[float, Ge(1)] | None = None
    source: Source = field(default_factory=Source)
    defocus_nm: float = 0.0
    aberrations: dict[str, float] = field(default_factory=dict)
    dose: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        if self.na >= self.medium_index:
            raise ValueError(
                f"na: got {self.na:g}; it stays below the refractive index of the medium, which is "
                f"{self.medium_index:g} (1 in air, {WATER:g} in water at 193 nm)"
            )
        for name in self.aberrations:
            if not _ZERNIKE.fullmatch(name):
                raise ValueError(f"aberrations: got {name!r}; expected Z1 to Z99, such as Z9")

    @property
    def medium_index(self) -> float:
        """The refractive index between lens and wafer: air below an NA of 1, else water."""
        if self.index is None:
            return 1.0 if self.na < 1 else WATER
        return self.index

    @property
    def pixel_limit_nm(self) -> float:
        """The coarsest pixel that holds every image: wavelength / (4 NA)."""
        return self.wavelength_nm / (4 * self.na)

    @property
    def cutoff_per_nm(self) -> float:
        """The highest frequency of a mask that reaches an image, (1 + sigma) NA / wavelength."""
        return (1 + self.source.sigma_outer) * self.na / self.wavelength_nm

    def frequencies(self, extent_nm: float) -> int:
        """Frequencies per axis of a square tile that reach an image; an odd number."""
        return self.lens().passed(extent_nm, self.source.sigma_outer)

    def check_pixel(self, pixel_nm: float, key: str = "pixel_nm") -> None:
        """ConfigError if pixels are too coarse for the images."""
        if pixel_nm > self.pixel_limit_nm:
            raise ConfigError(
                f"{key}: got {pixel_nm:g} nm; images at {self.wavelength_nm:g} nm and NA "
                f"{self.na:g} need pixels of at most {self.pixel_limit_nm:.4g} nm, "
                "wavelength / (4 NA)."
            )

    def lens(self, defocus_nm: float | Tensor | None = None) -> Lens:
        """The lens; `defocus_nm` replaces that of the settings."""
        return Lens(
            self.wavelength_nm,
            self.na,
            self.medium_index,
            self.defocus_nm if defocus_nm is None else defocus_nm,
            {int(name[1:]): waves for name, waves in self.aberrations.items()},
        )

    def matrix(self, extent_nm: float, defocus_nm: float | Tensor | None = None) -> Tensor:
        """The amplitude matrix of a square tile, complex128 `[S, n, n]`; see `ops.optics`.

        `defocus_nm` replaces that of the settings, and may have a gradient.
        """
        source, n = self.source.points(), self.frequencies(extent_nm)
        return ops.amplitude_matrix(source, self.lens(defocus_nm), n, extent_nm)

    def has_symmetry(self, name: Symmetry) -> bool:
        """Whether the image of a mask that is turned or mirrored is the image, turned or mirrored.

        That is so if the source and the pupil become themselves; or, because masks are real, those
        of the complex conjugated fields: the source at -s, and the conjugate of the pupil at -f.
        """
        change, points, lens = _SYMMETRIES[name], self.source.points().points, self.lens()
        moved = torch.stack(change(*points.T), 1)
        y, x = lens.frequencies(15, 7.5 * self.wavelength_nm / self.na)  # 15 across the pupil
        changed = ops.pupil(*change(y, x), lens)
        conjugate = ops.pupil(-y, -x, lens).conj()
        return any(
            _same_points(moved, source) and torch.allclose(changed, field, atol=1e-9)
            for source, field in ((points, ops.pupil(y, x, lens)), (-points, conjugate))
        )

    def check_transforms(self, transforms: Mapping[str, Transform]) -> None:
        """ConfigError for transforms after which a mask and its image no longer belong together."""
        problems = []
        for name, transform in transforms.items():
            needed: list[Symmetry] = []
            if isinstance(transform, Rotate):
                needed = ["quarter turn" if transform.degrees == 90 else "half turn"]
            if isinstance(transform, Flip):
                needed += ["horizontal flip"] if transform.horizontal else []
                needed += ["vertical flip"] if transform.vertical else []
            problems += [
                f"data.transforms.{name}: a {symmetry} changes the images of these optics "
                f"({self.source.shape} source at {self.source.rotation_deg:g} degrees, aberrations "
                f"{', '.join(self.aberrations) or 'none'}), so that mask and image would no longer "
                "belong together. Leave it out; data/transforms=[roll] is exact."
                for symmetry in needed
                if not self.has_symmetry(symmetry)
            ]
            if isinstance(transform, Shift):
                problems.append(
                    f"data.transforms.{name}: fills the edge with dark, although tiles repeat. "
                    "Use data/transforms=[roll]."
                )
        if problems:
            raise ConfigError(problems)

    def kernels(self, extent_nm: float, count: int | None = None) -> Kernels:
        """The `count` strongest kernels of a square tile, complex128; None: all."""
        return ops.socs_kernels(self.matrix(extent_nm), count)

    def plain(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dataclasses.asdict(self)


def _same_points(one: Tensor, other: Tensor) -> bool:
    """Whether two sources have the same points, in any order."""
    rounded = ((points.round(decimals=6) + 0.0).tolist() for points in (one, other))  # no -0.0
    first, second = (sorted(map(tuple, points)) for points in rounded)
    return first == second
