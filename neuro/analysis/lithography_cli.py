"""`python -m neuro litho kernels|image|info`: optical kernels, and images of masks by them."""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from neuro.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from neuro.data import store
    from neuro.data.simulated.optics import Optics

#: numbers of kernels for which `info` prints the fraction of the energy
_COUNTS = (1, 4, 8, 12, 24, 48)


def register(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add `litho` with its subcommands."""
    litho = commands.add_parser("litho", help="optical kernels, and aerial images of masks")
    actions = litho.add_subparsers(metavar="kernels|image|info", required=True)

    kernels = actions.add_parser("kernels", help="compute kernels of any optics and save them")
    kernels.add_argument("file", type=Path, help="output file: .h5 with the settings, or .npy")
    kernels.add_argument(
        "--count", type=int, default=24, help="number of kernels, the strongest first (default: 24)"
    )
    _add_optics(kernels)
    kernels.set_defaults(run=write_kernels)

    image = actions.add_parser("image", help="the aerial image of a mask, periodic at its edges")
    image.add_argument(
        "mask",
        type=Path,
        help="a square mask: .npy or .png, 1 where light passes; or a layout: .gds, .oas or .glp",
    )
    image.add_argument("--layer", help="of a layout: 67/20, in .glp M1 (default: the only one)")
    image.add_argument("file", type=Path, help="output file: .npy (intensities) or .png (a plot)")
    image.add_argument("--kernels", type=Path, help="a file of `litho kernels`, replaces optics")
    image.add_argument(
        "--threshold", type=float, default=0.225, help="intensity of the contour (default: .225)"
    )
    _add_optics(image)
    image.set_defaults(run=write_image)

    info = actions.add_parser("info", help="cut-off, pixel limit, and energy by number of kernels")
    _add_optics(info)
    info.set_defaults(run=show)


def _add_optics(parser: ArgumentParser) -> None:
    parser.add_argument("--wavelength-nm", type=float, help="wavelength (default: 193)")
    parser.add_argument("--na", type=float, help="numerical aperture (default: 0.7)")
    parser.add_argument("--index", type=float, help="refractive index (default: by NA, 1 or 1.44)")
    parser.add_argument(
        "--source", type=_source, metavar="SHAPE:SIGMAS",
        help="circular:.6, annular:.4,.8, dipole:.6,.9,40 or quasar:.6,.9,30 (opening in degrees)",
    )  # fmt: skip
    parser.add_argument("--defocus-nm", type=float, help="defocus (default: 0)")
    parser.add_argument("--dose", type=float, help="relative dose (default: 1)")
    parser.add_argument("--pixel-nm", type=float, help="side of a pixel (default: 25)")
    parser.add_argument("--size", type=int, help="pixels of a side of the tile (default: 64)")


def _source(text: str) -> dict[str, str | float]:
    """The keys of a source, as in annular:.4,.8."""
    from neuro.ops.optics import SourceShape

    shape, _, numbers = text.partition(":")
    shapes = get_args(SourceShape)
    if shape not in shapes:
        raise ArgumentTypeError(
            f"got shape {shape!r}; allowed: {', '.join(shapes)}.{nearest(shape, shapes)}"
        )
    names: tuple[str, ...] = ("sigma_inner", "sigma_outer", "opening_deg")
    names = names[1:2] if shape == "circular" else names
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"got {text!r}; expected numbers after the colon.") from None
    least = 1 if shape == "circular" else 2
    if not least <= len(values) <= len(names):
        raise ArgumentTypeError(f"got {text!r}; expected {shape}:{','.join(names[:least])}.")
    return {"shape": shape, **dict(zip(names, values, strict=False))}


def _optics(given: Namespace) -> Optics:
    """The settings on the command line, checked as those of a config."""
    from neuro.config.values import parse_values
    from neuro.data.simulated.optics import Optics

    keys = ("wavelength_nm", "na", "index", "source", "defocus_nm", "dose")
    values = {key: getattr(given, key) for key in keys if getattr(given, key) is not None}
    optics: Optics = parse_values(values, Optics, "optics")
    optics.check_pixel(_pixel_nm(given), "--pixel-nm")
    if _size(given) < optics.frequencies(_size(given) * _pixel_nm(given)):
        raise ConfigError("--size: the tile has fewer pixels than the optics pass frequencies.")
    return optics


def _pixel_nm(given: Namespace) -> float:
    pixel_nm: float = 25.0 if given.pixel_nm is None else given.pixel_nm
    if not pixel_nm > 0:
        raise ConfigError(f"--pixel-nm: got {pixel_nm:g}; expected more than 0.")
    return pixel_nm


def _size(given: Namespace) -> int:
    size: int = 64 if given.size is None else given.size
    if size < 8:
        raise ConfigError(f"--size: got {size}; expected at least 8.")
    return size


def write_kernels(given: Namespace) -> None:
    """Compute and save kernels."""
    from neuro.data.simulated.kernel_file import save

    if given.count < 1:
        raise ConfigError(f"--count: got {given.count}; expected at least 1.")
    optics, extent = _optics(given), _size(given) * _pixel_nm(given)
    kernels = optics.kernels(extent, given.count)
    save(given.file, kernels.values.numpy().astype("complex64"), extent, optics.plain())
    count, n, _ = kernels.values.shape
    print(
        f"{given.file}: {count} kernels of {n} x {n} frequencies for tiles of {extent:g} nm, with "
        f"{100 * float(kernels.energy[-1]):.2f} % of the energy"
    )


def write_image(given: Namespace) -> None:
    """Compute the image of a mask, by optics or by kernels from a file."""
    import numpy as np
    import torch

    from neuro.data.simulated.kernel_file import load
    from neuro.ops.optics import socs_image

    if given.file.suffix not in (".npy", ".png"):
        raise ConfigError(f"{given.file}: images are written as .npy or .png.")
    mask = _mask(given)
    if mask.shape[0] != mask.shape[1]:
        raise DataError(f"{given.mask}: {' x '.join(map(str, mask.shape))} pixels; crop a square.")
    given.size, extent = len(mask), len(mask) * _pixel_nm(given)
    if given.kernels is None:
        optics = _optics(given)
        kernels, dose = optics.matrix(extent), optics.dose
    else:
        named = ("wavelength_nm", "na", "index", "source", "defocus_nm")
        also = [f"--{n.replace('_', '-')}" for n in named if getattr(given, n) is not None]
        if also:
            raise ConfigError(
                f"{', '.join(also)}: are given by the file of --kernels; leave them out."
            )
        file = load(given.kernels)
        if file.extent_nm is not None and abs(file.extent_nm - extent) > 1e-6 * extent:
            raise ConfigError(
                f"{given.kernels}: made for tiles of {file.extent_nm:g} nm; the mask has "
                f"{extent:g} nm ({len(mask)} pixels of {_pixel_nm(given):g} nm)."
            )
        kernels, dose = torch.from_numpy(file.kernels), 1.0 if given.dose is None else given.dose
        if not 0 < dose < math.inf:
            raise ConfigError(f"--dose: got {dose:g}; expected a finite number above 0.")
    image = socs_image(torch.from_numpy(mask).to(kernels.real.dtype), kernels, dose).numpy()
    if given.file.suffix == ".npy":
        from neuro.io.files import replacing

        with replacing(given.file) as temporary, open(temporary, "wb") as handle:
            np.save(handle, image.astype(np.float32))
    else:
        from neuro.analysis.plots import images, style

        style.save(images.aerial(mask, image, given.threshold, _pixel_nm(given)), given.file)
    printed = (image > given.threshold).mean()
    print(
        f"{given.file}: intensity {image.min():.3g} to {image.max():.3g} of a clear field; "
        f"{100 * printed:.1f} % of the area lies above {given.threshold:g}"
    )


def _mask(given: Namespace) -> store.Array:
    """The mask of a file; a layout is centred in a square of --size pixels or its extent."""
    import numpy as np

    from neuro.data.simulated.layout_file import is_layout, read_layer
    from neuro.data.simulated.mask_file import read_mask
    from neuro.data.simulated.raster import bands

    if not is_layout(given.mask):
        if given.layer is not None:
            raise ConfigError(
                f"--layer: applies to layouts, and {given.mask} is not one; leave it out."
            )
        return read_mask(given.mask)
    numbers = re.fullmatch(r"(\d+)/(\d+)", given.layer or "")
    layer = (int(numbers[1]), int(numbers[2])) if numbers else given.layer
    cells = read_layer(given.mask, layer, "--layer")
    if len(cells) > 1:
        raise DataError(f"{given.mask}: has the top-level cells {', '.join(cells)}; expected one.")
    (polygons,) = cells.values()
    extent = np.ptp(np.concatenate(polygons), axis=0).max()
    needed = math.ceil(extent / _pixel_nm(given) - 1e-9)
    side = needed if given.size is None else _size(given)
    if side < needed:
        raise ConfigError(f"--size: got {side}; the layout has {needed} pixels.")
    return next(bands(polygons, _pixel_nm(given), side))


def show(given: Namespace) -> None:
    """Print the resolution of optics, and the fraction of the energy by number of kernels."""
    optics, extent = _optics(given), _size(given) * _pixel_nm(given)
    kernels = optics.kernels(extent)
    print(f"cut-off:        {1000 * optics.cutoff_per_nm:.4g} per um, (1 + sigma) NA / wavelength")
    print(f"half pitch:     {0.5 / optics.cutoff_per_nm:.4g} nm at least")
    print(f"pixel:          {optics.pixel_limit_nm:.4g} nm at most, wavelength / (4 NA)")
    print(f"frequencies:    {optics.frequencies(extent)} per axis of a tile of {extent:g} nm")
    for count in (c for c in _COUNTS if c < len(kernels.energy)):
        energy = 100 * float(kernels.energy[count - 1])
        print(f"{f'{count} kernels:':15s} {energy:.3f} % of the energy")
    print(f"{f'{len(kernels.energy)} kernels:':15s} all")
