"""Inverse lithography: optimise the pixels of masks so that they print target patterns.

A mask is sigmoid(a p) of free parameters p, and resist is sigmoid(b (I - threshold)) of the aerial
image I, so that the difference between print and target has a gradient in p. A penalty of grey
pixels grows from 0 with the updates, without which the final rounding to 0 and 1 spoils most of
what was gained (Poonawala & Milanfar, IEEE TIP 16, 2007). Prints at corners of dose and focus enter
the same loss (MOSAIC: Gao et al., DAC 2014). Masks and targets are `[N, H, W]`, tiles that repeat
in both directions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuro.config.opc import OPCSettings
from neuro.data.simulated.optics import Optics
from neuro.learning.imaging import EdgePlacementError
from neuro.ops.optics import paired_kernels, socs_image, socs_kernels

#: parameters, and standard deviation of their noise, of masks that begin as noise
_FAINT = 0.1


class ProcessWindow:
    """Aerial images of masks under nominal conditions and at the corners of dose and focus.

    Corners are all pairs of a dose, 1 - `dose` and 1 + `dose` times that of the optics, and a
    distance from their focus.
    """

    def __init__(
        self,
        optics: Optics,
        extent_nm: float,
        kernels: int | None,
        *,
        dose: float,
        defocus_nm: tuple[float, ...],
        device: torch.device,
    ) -> None:
        distances = list(dict.fromkeys([0.0, *defocus_nm]))  # the first is nominal
        self._kernels = [
            paired_kernels(
                socs_kernels(optics.matrix(extent_nm, optics.defocus_nm + distance), kernels).values
            ).to(device, torch.complex64)
            for distance in distances
        ]
        self._conditions = [(0, optics.dose)]
        for distance in dict.fromkeys(defocus_nm):
            for change in sorted({-dose, dose}):
                self._conditions.append((distances.index(distance), optics.dose * (1 + change)))

    def images(self, masks: Tensor) -> Tensor:
        """Aerial images `[1 + C, N, H, W]`: nominal, then of the C corners."""
        by_focus = [socs_image(masks, kernels) for kernels in self._kernels]
        return torch.stack([dose * by_focus[focus] for focus, dose in self._conditions])


class Losses(NamedTuple):
    """Parts of the loss without their weights, means over the masks; see `MaskOptimiser`."""

    l2: Tensor
    pv: Tensor
    variation: Tensor
    grey: Tensor


class MaskOptimiser:
    """Gradient descent on the pixels of masks for `targets`, which are 0 and 1.

    The loss is a weighted sum of four parts, in pixels: `l2`, the squared difference between
    nominal print and target; `pv`, the same at the corners, their mean; `variation`, the total
    variation of the mask; and `grey`, the sum of 4 m (1 - m) over its transmissions m.
    """

    def __init__(
        self, targets: Tensor, process: ProcessWindow, settings: OPCSettings, seed: int = 0
    ) -> None:
        """`seed`: of the initial noise, for `initial: noise`."""
        self.targets = targets
        self.process = process
        self.settings = settings
        start = 2 * targets - 1
        if settings.initial == "noise":
            # with a faint target, since small contacts are lost from noise alone: the first updates
            # darken the whole mask, where the sigmoids have no gradient
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(targets.shape, generator=generator).to(targets.device)
            start = _FAINT * (start + noise)
        self._parameters = start.requires_grad_()
        self._optimizer = torch.optim.Adam([self._parameters], lr=settings.lr)
        self._updates = 0

    def step(self) -> dict[str, Tensor]:
        """Make one update; returns the `loss` before it, and its parts."""
        settings = self.settings
        losses = self._losses()
        total = settings.l2_weight * losses.l2 + settings.pv_weight * losses.pv
        total = total + settings.smoothness * losses.variation
        growing = self._updates / settings.steps
        total = total + growing * settings.binary_weight * losses.grey
        self._optimizer.zero_grad()
        total.backward()
        self._optimizer.step()
        self._updates += 1
        return {name: x.detach() for name, x in {"loss": total, **losses._asdict()}.items()}

    @torch.no_grad()
    def masks(self) -> Tensor:
        """The masks so far: 0 and 1, or transmissions between them if the settings say so."""
        masks = self._transmissions()
        return (masks > 0.5).float() if self.settings.binary else masks

    def _transmissions(self) -> Tensor:
        return torch.sigmoid(self.settings.mask_steepness * self._parameters)

    def _losses(self) -> Losses:
        masks = self._transmissions()
        images = self.process.images(masks)
        prints = torch.sigmoid(self.settings.print_steepness * (images - self.settings.threshold))
        wrong, *at_corners = (prints - self.targets).square().sum((-2, -1)).mean(-1)
        steps = [(masks.roll(1, axis) - masks).abs().sum((-2, -1)).mean() for axis in (-2, -1)]
        grey = 4 * (masks * (1 - masks)).sum((-2, -1)).mean()
        return Losses(wrong, torch.stack(at_corners).mean(), steps[0] + steps[1], grey)


class Measures(NamedTuple):
    """What masks print, compared with targets; means over the masks.

    - `l2_error_nm2`: area where the nominal print differs from the target (the squared L2 error of
      binary images in the ICCAD-2013 contest, Banerjee et al.)
    - `pv_band_nm2`: process variation band, the area that prints at some condition but not at all
    - `epe_nm`: distance of nominal printed edges from those of the target, the mean over edges
    - `vertices`: of the mask's polygons; v of them make a polygon of at most v / 2 - 1 rectangles
    """

    l2_error_nm2: float
    pv_band_nm2: float
    epe_nm: float
    vertices: float


@torch.no_grad()
def measure(
    masks: Tensor, targets: Tensor, process: ProcessWindow, *, threshold: float, pixel_nm: float
) -> Measures:
    """Measure the prints of masks."""
    images = process.images(masks)
    prints = images > threshold
    wrong = (prints[0] != (targets > 0.5)).sum((-2, -1))
    band = prints.any(0) & ~prints.all(0)
    epe = EdgePlacementError(pixel_nm, threshold)
    # scaled so that a target crosses the threshold halfway between two pixels, where its edge is
    edges = epe.sums(images[0], 2 * threshold * targets)
    return Measures(
        float(wrong.double().mean()) * pixel_nm**2,
        float(band.sum((-2, -1)).double().mean()) * pixel_nm**2,
        epe.value(edges),
        float(vertices(masks).double().mean()),
    )


def vertices(masks: Tensor) -> Tensor:
    """Number of vertices of the polygons of each mask, `[N]`, where it passes half of the light.

    A vertex lies where one or three of four adjacent pixels pass light; two lie where two
    diagonally adjacent ones do.
    """
    a = masks > 0.5
    right, below = a.roll(-1, -1), a.roll(-1, -2)
    across = right.roll(-1, -2)
    single = a ^ right ^ below ^ across
    diagonal = (a == across) & (right == below) & (a != right)
    return single.sum((-2, -1)) + 2 * diagonal.sum((-2, -1))
