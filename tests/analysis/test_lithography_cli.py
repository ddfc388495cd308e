"""`python -m neuro litho`: kernels, images, `info`, and messages for wrong files and options."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from neuro.__main__ import main
from neuro.data.simulated import kernel_file
from neuro.data.simulated.mask_file import read_mask, tiles
from neuro.data.simulated.optics import Optics, Source
from neuro.errors import DataError
from neuro.ops.optics import socs_image
from tests.data.helpers import write_gds

IMMERSION = ("--wavelength-nm", "193", "--na", "1.35", "--source", "annular:.4,.8")


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    values = np.zeros((32, 32), bool)
    values[8:16, 4:28] = True
    np.save(tmp_path / "mask.npy", values)
    Image.fromarray((255 * values).astype(np.uint8)).save(tmp_path / "mask.png")
    return tmp_path / "mask.npy"


def litho(*arguments: object) -> int:
    return main(["litho", *map(str, arguments)])


def test_kernels_are_saved_with_their_optics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernels.h5"
    assert litho("kernels", *IMMERSION, "--pixel-nm", 8, path) == 0
    assert "24 kernels of 13 x 13 frequencies for tiles of 512 nm" in capsys.readouterr().out
    optics = Optics(na=1.35, source=Source("annular", 0.8, 0.4))
    found = kernel_file.load(path)
    assert found.settings == optics.plain() and found.extent_nm == 512
    expected = optics.kernels(512, 24).values.numpy()
    np.testing.assert_allclose(np.abs(found.kernels), np.abs(expected), atol=1e-6)
    assert litho("kernels", "--count", 3, tmp_path / "few.npy") == 0
    assert np.load(tmp_path / "few.npy").shape == (3, 21, 21)


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_an_image_of_a_mask(suffix: str, mask: Path, tmp_path: Path) -> None:
    out = tmp_path / "image.npy"
    options = ("--na", 0.6, "--source", "circular:.5", "--dose", 1.5, "--defocus-nm", 50)
    assert litho("image", mask.with_suffix(suffix), out, *options) == 0
    optics = Optics(na=0.6, defocus_nm=50.0, source=Source("circular", 0.5))
    values = torch.from_numpy(np.load(mask)).double()
    expected = socs_image(values, optics.matrix(32 * 25.0), 1.5)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)


def test_an_image_by_kernels_of_a_file_as_a_picture(mask: Path, tmp_path: Path) -> None:
    kernels = tmp_path / "kernels.h5"
    assert litho("kernels", "--size", 32, kernels) == 0
    assert litho("image", mask, tmp_path / "by_file.npy", "--kernels", kernels) == 0
    expected = socs_image(
        torch.from_numpy(np.load(mask)).float(),
        torch.from_numpy(kernel_file.load(kernels).kernels),
    )
    np.testing.assert_allclose(np.load(tmp_path / "by_file.npy"), expected, atol=1e-6)
    assert litho("image", mask, tmp_path / "picture.png", "--threshold", 0.3) == 0
    assert Image.open(tmp_path / "picture.png").size[0] > 500


def test_an_image_of_a_layout(tmp_path: Path) -> None:
    """A layer of the layout, centred in a square of its own or a given size."""
    path, out = tmp_path / "cell.gds", tmp_path / "image.npy"
    write_gds(path, {"cell": [(0, 0, 400, 800), (400, 0, 400, 200)]}, layer=(67, 20))
    assert litho("image", path, out, "--layer", "67/20", "--size", 64) == 0
    mask = np.zeros((64, 64))
    mask[16:48, 16:32] = mask[40:48, 32:48] = 1
    expected = socs_image(torch.from_numpy(mask), Optics().matrix(1600.0))
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    assert litho("image", path, out) == 0
    assert np.load(out).shape == (32, 32)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert litho("info", *IMMERSION, "--pixel-nm", 8) == 0
    out = capsys.readouterr().out
    for text in ("12.59 per um", "35.74 nm at most", "13 per axis", "24 kernels:", "all"):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "--pixel-nm", 90), "--pixel-nm: got 90 nm; images at 193 nm"),
        (("info", "--pixel-nm", 0), "--pixel-nm: got 0; expected more than 0"),
        (("info", "--size", 4), "--size: got 4; expected at least 8"),
        (("info", "--na", 1.2, "--index", 1), "na: got 1.2; it stays below the refractive index"),
        (("info", "--na", "nan"), "na"),
        (("info", "--source", "annular:.8,.4"), "sigma_inner: got 0.8"),
        (("kernels", "--count", 0, "k.h5"), "--count: got 0; expected at least 1"),
        (("kernels", "k.txt"), "k.txt: kernels are written as .h5 or .npy"),
        (("kernels", "mask.npy/k.h5"), "mask.npy/k.h5: cannot be written"),
        (("image", "mask.npy", "o.gif"), "o.gif: images are written as .npy or .png"),
        (("image", "none.npy", "o.npy"), "none.npy: no such file"),
        (("image", "none.png", "o.npy"), "none.png: no such file"),
        (("image", "mask.txt", "o.npy"), "masks are read from .npy and .png files"),
        (("image", "wide.npy", "o.npy"), "8 x 16 pixels; crop a square"),
        (("image", "empty.npy", "o.npy"), "the mask is empty"),
        (("image", "grey.npy", "o.npy"), "holds values from 0 to 255; expected 0 (dark) to 1"),
        (("image", "broken.npy", "o.npy"), "no NumPy array can be read from it"),
        (("image", "broken.png", "o.npy"), "no picture can be read from it"),
        (
            ("image", "cell.gds", "o.npy", "--layer", "7/1"),
            "no layer 7/1; there are 1/0. Set --layer",
        ),
        (("image", "cell.gds", "o.npy", "--layer", "M1"), "no layer M1; there are 1/0"),
        (("image", "cell.gds", "o.npy", "--size", 16), "--size: got 16; the layout has 32 pixels"),
        (("image", "cells.gds", "o.npy"), "has the top-level cells a, b; expected one"),
        (
            ("image", "mask.npy", "o.npy", "--layer", "7/1"),
            "--layer: applies to layouts",
        ),
        (("image", "mask.npy", "o.npy", "--kernels", "mask.npy"), "expected complex kernels"),
        (("image", "mask.npy", "o.npy", "--kernels", "k64.h5"), "made for tiles of 1600 nm"),
        (
            ("image", "mask.npy", "o.npy", "--kernels", "k64.h5", "--na", 0.5),
            "--na: are given by",
        ),
        (("image", "mask.npy", "o.npy", "--kernels", "other.h5"), "holds no optical kernels"),
        (("image", "mask.npy", "o.npy", "--dose", 0), "dose: got 0"),
        (("image", "mask.npy", "o.npy", "--kernels", "k32.h5", "--dose", 0), "--dose: got 0;"),
        (("image", "mask.npy", "o.npy", "--kernels", "k32.h5", "--dose", "nan"), "--dose: got nan"),
    ],
)
def test_invalid_files_and_options(
    arguments: tuple[object, ...],
    message: str,
    mask: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(mask.parent)
    np.save("wide.npy", np.ones((8, 16)))
    np.save("empty.npy", np.zeros((8, 8)))
    np.save("grey.npy", np.full((8, 8), 255.0) * np.eye(8))
    write_gds(Path("cell.gds"), {"cell": [(0, 0, 400, 800)]})
    write_gds(Path("cells.gds"), {"a": [(0, 0, 400, 800)], "b": [(0, 0, 400, 400)]})
    Path("broken.npy").write_bytes(b"\x93NUMPY")
    Path("broken.png").write_bytes(b"\x89PNG")
    for name in ("k64.h5", "k32.h5"):
        if name in arguments:
            assert litho("kernels", "--size", name[1:3], name) == 0
    with h5py.File("other.h5", "w") as file:
        file["data"] = np.zeros(3)
    before = set(Path().iterdir())
    assert litho(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert set(Path().iterdir()) == before


def test_tiles_of_a_mask(tmp_path: Path) -> None:
    values = np.arange(16 * 24).reshape(16, 24) / 400
    np.save(tmp_path / "m.npy", values)
    found = tiles(read_mask(tmp_path / "m.npy"), 8, tmp_path / "m.npy")
    assert found.shape == (6, 8, 8)
    np.testing.assert_allclose(found[4], values[8:, 8:16], atol=1e-6)
    with pytest.raises(DataError, match="16 x 24 pixels are no multiple of tiles of 10 x 10"):
        tiles(values, 10, tmp_path / "m.npy")
