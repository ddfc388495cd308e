"""Open HDF5 files of any program, with a DataError that names the fault of a file.

HDF5 itself returns fill values, usually zeros, where parts of a dataset were never written or lie
in other files that are missing. Such datasets are refused here, since their values would be wrong.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import h5py

from neuro.errors import DataError

Item: TypeAlias = h5py.Group | h5py.Dataset

#: package of the usual compression filters that the HDF5 library does not have itself
PLUGINS = "hdf5plugin"

#: what h5py, which has no exceptions of its own, raises for damaged files
_H5PY_ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading. DataError if it is missing, damaged, in use or no HDF5 file."""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; expected an HDF5 file.")
    try:
        # files are replaced, never changed in place; network disks often cannot lock
        file = h5py.File(path, "r", locking="best-effort")
    except BlockingIOError as error:
        raise DataError(f"{path}: another program has it open for writing.") from error
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (OSError, RuntimeError, ValueError) as error:
        if not h5py.is_hdf5(path):
            raise DataError(f"{path}: {_beginning(path)}; expected an HDF5 file.") from error
        raise DataError(f"{path}: damaged or truncated HDF5 file ({error}).") from error
    with file:
        yield file


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Convert what h5py raises while `what` is read into a DataError."""
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{what}: does not fit into memory ({error}).") from error
    except _H5PY_ERRORS as error:
        raise DataError(f"{what}: damaged or truncated ({error}).") from error


def child(group: h5py.Group, name: str, where: str) -> Item | None:
    """The group or dataset of a name, None if there is none. `where` is the group in messages.

    DataError for broken links, which h5py treats as missing items.
    """
    with reading(f"{where}{name}"):
        link = group.get(name, getlink=True)
    if link is None:
        return None
    try:
        item = group[name]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(link, h5py.SoftLink):
            raise DataError(
                f"{where}{name}: is a link to {link.path}, which does not exist."
            ) from error
        if isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{where}{name}: is a link to {link.path} in the file {link.filename}, which is "
                "missing or lacks it. Put that file in its place, or copy the data into this one."
            ) from error
        raise DataError(f"{where}{name}: damaged or truncated ({error}).") from error
    return item if isinstance(item, (h5py.Group, h5py.Dataset)) else None


def check_stored(dataset: h5py.Dataset, where: str) -> tuple[Path, ...]:
    """Check that all values of a dataset exist and can be decoded.

    Returns the files beside its own that hold some of them. DataError names what is missing.
    """
    with reading(where):
        properties = dataset.id.get_create_plist()
        _check_filters(properties, where)
        if dataset.is_virtual:
            return _virtual_sources(dataset, where)
        if dataset.external:
            return tuple(
                _raw_file(name, offset, size, where) for name, offset, size in dataset.external
            )
        chosen_fill = properties.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
        if dataset.size and not chosen_fill:
            _check_written(dataset, where)
    return ()


def _check_filters(properties: Any, where: str) -> None:
    """DataError for a compression that cannot be undone; `hdf5plugin` is loaded if it is there."""
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            with suppress(ImportError):
                importlib.import_module(PLUGINS)  # registers its filters with HDF5
        if not h5py.h5z.filter_avail(code):
            raise DataError(
                f"{where}: compressed with filter {code} ({name.decode(errors='replace')}), which "
                f"this HDF5 library does not have. Install the package {PLUGINS}, or rewrite the "
                "file with `h5repack -f GZIP=4`."
            )


def _check_written(dataset: h5py.Dataset, where: str) -> None:
    """DataError if values were never written, as in a file whose program was killed.

    A fill value that was set explicitly is valid data, and is not checked.
    """
    if dataset.chunks is None:
        missing, of = int(dataset.id.get_storage_size() == 0), 1
    else:
        sizes = zip(dataset.shape, dataset.chunks, strict=True)
        of = math.prod(math.ceil(size / chunk) for size, chunk in sizes)
        missing = of - dataset.id.get_num_chunks()
    if missing > 0:
        raise DataError(
            f"{where}: {'values' if of == 1 else f'{missing} of {of} chunks'} were never written; "
            "HDF5 would return zeros for them. Was the program that wrote the file stopped? Cut "
            "the dataset to what was written, or create it with an explicit fill value."
        )


def _virtual_sources(dataset: h5py.Dataset, where: str) -> tuple[Path, ...]:
    """The files behind a virtual dataset, which must exist and fill all of it."""
    own = Path(dataset.file.filename)
    found: dict[Path, None] = {}
    covered = 0
    for source in dataset.virtual_sources():
        if "%" in source.file_name + source.dset_name:
            raise DataError(
                f"{where}: a virtual dataset of sources by a pattern ({source.file_name}), which "
                "cannot be checked for missing files. Copy the values into one file."
            )
        path = own if source.file_name == "." else _source_path(own, source.file_name)
        missing = f"{where}: a virtual dataset of {source.dset_name} in {source.file_name}"
        if path is None:
            raise DataError(
                f"{missing}, which is missing; HDF5 would return zeros for it. Put the file into "
                f"{own.parent}, or copy the values into one file."
            )
        with opened(path) as file:
            inner = child(file, source.dset_name, f"{path}: ")
            if not isinstance(inner, h5py.Dataset):
                raise DataError(f"{missing}, which holds no such dataset.")
            taken = source.src_space
            if taken.get_select_type() != h5py.h5s.SEL_ALL:
                last = taken.get_select_bounds()[1]
                short = len(last) != inner.ndim or any(
                    end >= size for end, size in zip(last, inner.shape, strict=True)
                )
            else:
                short = False
            with suppress(RuntimeError):  # an unlimited selection ends where its source ends
                points = source.vspace.get_select_npoints()
                covered += points
                short |= taken.get_select_type() == h5py.h5s.SEL_ALL and inner.size != points
            if short:
                raise DataError(
                    f"{missing}, which has shape {inner.shape} and is not what the virtual dataset "
                    "was made of; HDF5 would return zeros for the rest."
                )
            found |= dict.fromkeys(check_stored(inner, f"{path}: {source.dset_name}"))
        found[path] = None
    limited = None not in dataset.maxshape
    if limited and covered < dataset.size:
        raise DataError(
            f"{where}: a virtual dataset whose sources fill {covered} of its {dataset.size} values."
        )
    found.pop(own, None)
    return tuple(found)


def _source_path(own: Path, name: str) -> Path | None:
    """The source file of a virtual dataset in the file `own`, where HDF5 looks for it.

    The order is that of H5F_prefix_open_file in the HDF5 library.
    """
    prefixes = [Path(p) for p in os.environ.get("HDF5_VDS_PREFIX", "").split(":") if p]
    folders = [*prefixes, own.parent, Path(), own.resolve().parent]
    tried = [Path(name), *(folder / Path(name).name for folder in folders)]
    if not Path(name).is_absolute():
        tried = [folder / name for folder in folders]
    return next((path for path in tried if path.is_file()), None)


def _raw_file(name: str, offset: int, size: int, where: str) -> Path:
    """A raw file that holds a dataset's values, which must be long enough."""
    folder = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    path = Path(folder) / name
    found = path.stat().st_size if path.is_file() else -1
    if found < offset or (size != h5py.h5s.UNLIMITED and found < offset + size):
        raise DataError(
            f"{where}: its values lie in the raw file {path}, which "
            + ("is missing." if found < 0 else f"has {found} bytes; expected {offset + size}.")
        )
    return path


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return f"not an HDF5 file (begins with {handle.read(8)!r})"
    except OSError as error:
        return f"cannot be read ({error})"
