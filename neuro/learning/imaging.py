"""Metrics of images: structural similarity, and what a threshold prints of aerial images.

Images are `[B, ..., H, W]`. A resist is modelled by a constant threshold: it prints where the
intensity lies above (0.225 of a clear field in LithoBench, Zheng et al., NeurIPS 2023). Positions
of edges are interpolated between pixels; tiles repeat in both directions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.config.types import Positive
from neuro.learning.metrics import Metric


class SSIM(Metric):
    """Structural similarity (Wang et al., IEEE TIP 2004), the mean over all places.

    A Gaussian window of `sigma` pixels, cut at 3.5 sigma; stability constants (0.01 peak)^2 and
    (0.03 peak)^2. Windows continue around the edges of the tile.
    """

    direction = "max"
    targets = ("image",)
    in_training = False

    def __init__(self, peak: Positive = 1.0, sigma: Positive = 1.5):
        self.peak = peak
        self.sigma = sigma

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        x, y = (_planes(images) for images in (outputs, targets))
        mean_x, mean_y = self._local(x), self._local(y)
        var_x = self._local(x.square()) - mean_x.square()
        var_y = self._local(y.square()) - mean_y.square()
        both = self._local(x * y) - mean_x * mean_y
        a, b = (0.01 * self.peak) ** 2, (0.03 * self.peak) ** 2
        similarity = (2 * mean_x * mean_y + a) * (2 * both + b)
        similarity /= (mean_x.square() + mean_y.square() + a) * (var_x + var_y + b)
        count = similarity.new_tensor(similarity.numel())
        return torch.stack([similarity.double().sum(), count.double()])

    def _local(self, planes: Tensor) -> Tensor:
        """Weighted mean around each place."""
        reach = min(int(3.5 * self.sigma + 0.5), *(size - 1 for size in planes.shape[-2:]))
        places = torch.arange(-reach, reach + 1, dtype=planes.dtype, device=planes.device)
        weights = torch.exp(-places.square() / (2 * self.sigma**2))
        weights /= weights.sum()
        padded = F.pad(planes[:, None], (reach,) * 4, mode="circular")
        across = F.conv2d(padded, weights[None, None, None])
        return F.conv2d(across, weights[None, None, :, None])[:, 0]


class _Printed(Metric):
    """What a constant threshold prints."""

    targets = ("image",)

    def __init__(self, threshold: Positive = 0.225):
        self.threshold = threshold

    def _prints(self, images: Tensor) -> Tensor:
        return images > self.threshold


class ContourIoU(_Printed):
    """Intersection over union of the printed areas, over all pixels of a split."""

    direction = "max"

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found, wanted = self._prints(outputs), self._prints(targets)
        return torch.stack([(found & wanted).sum(), (found | wanted).sum()]).double()

    def value(self, sums: Tensor) -> float:
        return float(sums[0]) / float(sums[1]) if sums[1] else 1.0  # nothing prints in either


class PixelAccuracy(_Printed):
    """Fraction of pixels that print, or do not, as they should."""

    direction = "max"

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = self._prints(outputs) == self._prints(targets)
        return torch.stack([right.sum(), torch.ones_like(right).sum()]).double()


class _Edges(_Printed):
    """Displacements of printed edges, along rows and columns, in nm.

    An edge of the target is compared with the nearest edge of the same direction, dark to bright or
    bright to dark, of the output in its row or column, whichever crosses it more steeply. Where
    there is none within `reach_nm`, the displacement counts as that.
    """

    direction = "min"
    in_training = False

    def __init__(
        self, pixel_nm: Positive = 1.0, threshold: Positive = 0.225, reach_nm: Positive = 200.0
    ):
        super().__init__(threshold)
        self.pixel_nm = pixel_nm
        self.reach_nm = reach_nm

    def _displacements(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """In pixels along the last axis, `[2, B, H, W]`: of rising and falling edges between a
        pixel and the next one; and which of them exist and are steepest along this axis.
        """
        reach = max(1, int(self.reach_nm / self.pixel_nm))
        wanted, there = _crossings(targets, self.threshold)
        found, is_found = _crossings(outputs, self.threshold)
        best = torch.full_like(wanted, self.reach_nm / self.pixel_nm)
        for k in range(-reach, reach + 1):
            moved = found.roll(-k, -1) + k - wanted
            nearer = is_found.roll(-k, -1) & (moved.abs() < best.abs())
            best = torch.where(nearer, moved, best)
        along = (targets.roll(-1, -1) - targets).abs()
        slope = (targets.roll(-1, -2) - targets.roll(1, -2)).abs() / 2
        return best, there & (along >= slope)


class EdgePlacementError(_Edges):
    """Mean distance of printed edges from where they should be, in nm."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros(2, dtype=torch.float64, device=outputs.device)
        for x, y in _both_axes(outputs, targets):
            displacement, counted = self._displacements(x, y)
            distances = displacement[counted].abs().double() * self.pixel_nm
            total += torch.stack([distances.sum(), counted.sum().double()])
        return total

    def value(self, sums: Tensor) -> float:
        return super().value(sums) if sums[1] else 0.0  # no edge prints


class CriticalDimensionError(_Edges):
    """Mean error of the widths of printed features, in nm.

    A width reaches from a rising edge to the next falling one in its row or column, where both are
    counted edges (`_Edges`).
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros(2, dtype=torch.float64, device=outputs.device)
        for x, y in _both_axes(outputs, targets):
            (rising, falling), (starts, ends) = self._displacements(x, y)
            place = _next(ends)  # of the falling edge that ends the feature
            has_end = place < 2 * place.shape[-1]
            place = place % place.shape[-1]
            error = (falling.gather(-1, place) - rising).abs()
            counted = starts & has_end
            errors = error[counted].double() * self.pixel_nm
            total += torch.stack([errors.sum(), counted.sum().double()])
        return total

    def value(self, sums: Tensor) -> float:
        return super().value(sums) if sums[1] else 0.0


def _planes(images: Tensor) -> Tensor:
    """`[N, H, W]` of images `[..., H, W]`."""
    return images.float().reshape(-1, *images.shape[-2:])


def _both_axes(outputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Outputs and targets with their rows in the last axis, then with their columns in it."""
    x, y = _planes(outputs), _planes(targets)
    return [(x, y), (x.transpose(1, 2), y.transpose(1, 2))]


def _crossings(images: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Rising and falling edges along the last axis, `[2, N, H, W]`.

    Of each pixel: the part of the way to the next one at which the threshold is crossed, and
    whether it is.
    """
    here, there = images, images.roll(-1, -1)
    part = (threshold - here) / (there - here)
    low, high = here <= threshold, there > threshold
    crossed = torch.stack([low & high, ~low & ~high])
    return part.nan_to_num(0.0, 0.0, 0.0).expand_as(crossed), crossed


def _next(marks: Tensor) -> Tensor:
    """For each place of the last axis, the first marked one from there on, around the edge.

    Places after the edge count on; 3 times the length where none is marked.
    """
    length = marks.shape[-1]
    places = torch.arange(2 * length, device=marks.device)
    ahead = torch.where(marks.repeat(1, 1, 2), places, 3 * length)
    return ahead.flip(-1).cummin(-1).values.flip(-1)[..., :length]
