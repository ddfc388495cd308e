"""Plots of predicted images: beside their targets with the errors, and of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuro.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.floating]


class Sample(NamedTuple):
    """One row of the plot: the name of a sample, and its images `[H, W]`."""

    name: str
    inputs: Image
    target: Image
    output: Image


@style.styled
def predictions(
    samples: Sequence[Sample],
    *,
    threshold: float | None = None,
    pixel_nm: float | None = None,
    title: str = "",
) -> Figure:
    """Plot inputs, targets, outputs and errors (output - target), a row for each sample.

    - `threshold`: contours at this value are drawn: solid of the target, dashed of the output
    - `pixel_nm`: side of a pixel, for axes in nm; None: axes in pixels
    """
    figure = style.new_figure(9.2, 0.7 + 1.95 * len(samples))
    axes = figure.subplots(len(samples), 4, squeeze=False, sharex=True, sharey=True)
    peak = max(float(image.max()) for s in samples for image in (s.target, s.output))
    for row, sample in zip(axes, samples, strict=True):
        height, width = (size * (pixel_nm or 1.0) for size in sample.target.shape)
        extent = (0.0, width, 0.0, height)
        common = {"extent": extent, "origin": "lower", "interpolation": "nearest"}
        row[0].imshow(sample.inputs, cmap="gray", vmin=0, **common)
        row[1].imshow(sample.target, cmap="inferno", vmin=0, vmax=peak, **common)
        shown = row[2].imshow(sample.output, cmap="inferno", vmin=0, vmax=peak, **common)
        error = sample.output - sample.target
        limit = max(float(np.abs(error).max()), 1e-12)
        wrong = row[3].imshow(error, cmap="RdBu_r", vmin=-limit, vmax=limit, **common)
        figure.colorbar(shown, ax=row[2], shrink=0.85, aspect=14)
        figure.colorbar(wrong, ax=row[3], shrink=0.85, aspect=14, format="%.1e")
        row[0].set_ylabel(sample.name)
        if threshold is not None:
            contour(row[1], sample.target, threshold, extent, "white", "solid")
            contour(row[2], sample.output, threshold, extent, "white", "dashed")
            contour(row[3], sample.target, threshold, extent, style.INK, "solid")
            contour(row[3], sample.output, threshold, extent, style.PALETTE[2], "dashed")
    for ax, name in zip(axes[0], ("input", "target", "output", "output - target"), strict=True):
        ax.set_title(name)
    for ax in axes.flat:
        ax.grid(visible=False)
    for ax in axes[-1]:
        ax.set_xlabel("pixels" if pixel_nm is None else "nm")
    style.title(figure, title)
    return figure


@style.styled
def aerial(mask: Image, image: Image, threshold: float, pixel_nm: float) -> Figure:
    """Plot a mask and its aerial image `[H, W]`, with the contour that a threshold prints."""
    figure = style.new_figure(8.4, 4.0)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    height, width = (size * pixel_nm for size in mask.shape)
    extent = (0.0, width, 0.0, height)
    common = {"extent": extent, "origin": "lower", "interpolation": "nearest"}
    left.imshow(mask, cmap="gray", vmin=0, vmax=1, **common)
    shown = right.imshow(image, cmap="inferno", vmin=0, **common)
    figure.colorbar(shown, ax=right, shrink=0.85, label="intensity / clear field")
    contour(right, image, threshold, extent, "white", "solid")
    left.set_title("mask")
    right.set_title(f"aerial image, contour at {threshold:g}")
    left.set_ylabel("nm")
    for ax in (left, right):
        ax.set_xlabel("nm")
        ax.grid(visible=False)
    return figure


def contour(
    ax: Axes,
    image: Image,
    threshold: float,
    extent: tuple[float, float, float, float],
    colour: str,
    line: str,
) -> None:
    """Draw a contour, unless the image does not cross the threshold: matplotlib warns then."""
    if image.min() < threshold < image.max():
        height, width = image.shape
        x = (np.arange(width) + 0.5) * extent[1] / width
        y = (np.arange(height) + 0.5) * extent[3] / height
        ax.contour(x, y, image, [threshold], colors=colour, linestyles=line, linewidths=0.9)
