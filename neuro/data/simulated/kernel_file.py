"""Files of optical kernels: HDF5 with the settings they were made of, or a bare NumPy array."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neuro.data import store
from neuro.data.hdf5_file import opened, reading
from neuro.errors import DataError
from neuro.io.files import replacing

FORMAT = "neuro-optical-kernels"


@dataclass(frozen=True, eq=False)
class KernelFile:
    """Kernels complex64 `[K, n, n]`, zero frequency in the middle, of a tile `extent_nm` wide.

    `settings` are plain values of `Optics`; None in a NumPy file, whose extent is unknown, too.
    """

    kernels: store.Array
    extent_nm: float | None
    settings: dict[str, Any] | None


def save(path: Path, kernels: store.Array, extent_nm: float, settings: dict[str, Any]) -> None:
    """Write kernels atomically, as HDF5 or, by the suffix .npy, as an array alone."""
    if path.suffix not in (".h5", ".hdf5", ".npy"):
        raise DataError(f"{path}: kernels are written as .h5 or .npy.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            if path.suffix == ".npy":
                with open(temporary, "wb") as file:
                    np.save(file, kernels)
                return
            with h5py.File(temporary, "w") as file:
                file.attrs["format"] = FORMAT
                file.attrs["extent_nm"] = extent_nm
                file.attrs["optics"] = json.dumps(settings, sort_keys=True)
                file.create_dataset("kernels", data=kernels, fletcher32=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}).") from error


def load(path: Path) -> KernelFile:
    """The kernels of a file. DataError for anything else."""
    if path.suffix == ".npy":
        return KernelFile(_checked(read_array(path), path), None, None)
    with opened(path) as file, reading(f"{path}"):
        if file.attrs.get("format") != FORMAT or "kernels" not in file:
            raise DataError(
                f"{path}: holds no optical kernels; `python -m neuro litho kernels` writes them."
            )
        kernels = file["kernels"][()]
        extent, text = float(file.attrs["extent_nm"]), str(file.attrs["optics"])
    return KernelFile(_checked(kernels, path), extent, json.loads(text))


def read_array(path: Path) -> store.Array:
    """The array of a .npy file, which is never unpickled. DataError where there is none."""
    try:
        array: store.Array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: no NumPy array can be read from it ({error}).") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: is an archive; expected a single array (.npy).")
    return array


def _checked(kernels: store.Array, path: Path) -> store.Array:
    shape = kernels.shape
    if kernels.dtype.kind != "c" or kernels.ndim != 3 or shape[1] != shape[2] or shape[1] % 2 == 0:
        raise DataError(
            f"{path}: holds {kernels.dtype} {list(shape)}; expected complex kernels [K, n, n], "
            "n odd, zero frequency in the middle."
        )
    if not np.isfinite(kernels).all():
        raise DataError(f"{path}: holds kernels that are not finite.")
    checked: store.Array = kernels.astype(np.complex64)
    return checked
