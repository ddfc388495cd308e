"""Plots of optimised masks: the printed images, and their variation over process corners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuro.analysis.plots import style
from neuro.analysis.plots.images import contour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = NDArray[np.floating]


class Printed(NamedTuple):
    """A mask `[H, W]`, and its aerial images `[C, H, W]`: nominal, then those of the corners."""

    mask: Image
    images: Image


class Corrected(NamedTuple):
    """One row of the plot: a target `[H, W]` and its name, without and with correction."""

    name: str
    target: Image
    before: Printed
    after: Printed


@style.styled
def corrections(rows: Sequence[Corrected], *, threshold: float, pixel_nm: float) -> Figure:
    """Plot mask, nominal image and process variation band, without and with correction.

    Contours: of the target (solid) and of the printed image (dashed). The band, black, is the area
    that prints under some of the conditions but not under all.
    """
    figure = style.new_figure(11.0, 1.1 + 1.65 * len(rows))
    axes = figure.subplots(len(rows), 6, squeeze=False, sharex=True, sharey=True)
    peak = max(float(part.images[0].max()) for row in rows for part in (row.before, row.after))
    for panels, row in zip(axes, rows, strict=True):
        height, width = (size * pixel_nm for size in row.target.shape)
        extent = (0.0, width, 0.0, height)
        common = {"extent": extent, "origin": "lower", "interpolation": "nearest"}
        for (mask, image, band), part in (
            (panels[:3], row.before),
            (panels[3:], row.after),
        ):
            prints = part.images > threshold
            varies = prints.any(0) & ~prints.all(0)
            mask.imshow(part.mask, cmap="gray", vmin=0, vmax=1, **common)
            image.imshow(part.images[0], cmap="inferno", vmin=0, vmax=peak, **common)
            band.imshow(varies, cmap="binary", vmin=0, vmax=1, **common)
            contour(image, row.target, 0.5, extent, "white", "solid")
            contour(image, part.images[0], threshold, extent, style.PALETTE[5], "dashed")
            contour(band, row.target, 0.5, extent, style.PALETTE[1], "solid")
        panels[0].set_ylabel(row.name)
    names = ("mask", "image", "PV band")
    for ax, name in zip(axes[0], (*names, *names), strict=True):
        ax.set_title(name)
    for ax in axes.flat:
        ax.grid(visible=False)
    for ax in axes[-1]:
        ax.set_xlabel("nm")
    style.title(figure, "No correction (left three panels) and optimised masks (right)")
    return figure
