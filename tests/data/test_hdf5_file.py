"""HDF5 files of other programs: links, virtual datasets, filters and missing values."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neuro.data import hdf5_file, layout, store
from neuro.errors import DataError
from tests.data.helpers import numbered, write_hdf5

SHAPE = (60, 8, 5)
DATA = np.random.default_rng(0).random(SHAPE, dtype=np.float32)


def virtual(path: Path, *sources: str, rows: int = 20) -> Path:
    """A file with a virtual dataset of `rows` samples from each source file."""
    made = h5py.VirtualLayout(SHAPE, np.float32)
    for number, name in enumerate(sources):
        part = slice(number * rows, (number + 1) * rows)
        made[part] = h5py.VirtualSource(name, "data", (20, *SHAPE[1:]))[:rows]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", made)
        file["labels"] = np.arange(60) % 3
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    names = [f"part{number}.h5" for number in range(3)]
    for number, name in enumerate(names):
        write_hdf5(tmp_path / name, {"": {"data": DATA[20 * number : 20 * (number + 1)]}})
    return names


def test_a_virtual_dataset_is_read_completely(tmp_path: Path, parts: list[str]) -> None:
    split = layout.open_splits(virtual(tmp_path / "a.h5", *parts))[store.ROOT]
    with split.blocks() as reader:
        assert np.array_equal(np.concatenate([reader.read(0)]), DATA[: split.block])
    assert [path.name for path in split.sources] == parts
    before = split.fingerprint
    write_hdf5(tmp_path / parts[0], {"": {"data": np.ones((20, 8, 6), np.float32)[:, :, :5]}})
    assert split.fingerprint != before


def test_a_source_that_is_missing_is_named(tmp_path: Path, parts: list[str]) -> None:
    path = virtual(tmp_path / "a.h5", *parts)
    split = layout.open_splits(path)[store.ROOT]
    (tmp_path / parts[1]).unlink()
    with pytest.raises(DataError, match=r"a\.h5: data.*part1\.h5, which is missing; HDF5 would"):
        layout.read(path)
    with pytest.raises(DataError, match="which is missing"), split.blocks():  # during training
        pass


def test_sources_that_do_not_fill_the_dataset(tmp_path: Path, parts: list[str]) -> None:
    with pytest.raises(DataError, match="fill 1600 of its 2400 values"):
        layout.read(virtual(tmp_path / "a.h5", *parts[:2]))
    path = virtual(tmp_path / "b.h5", *parts)
    write_hdf5(tmp_path / parts[2], {"": {"data": DATA[:7]}})
    with pytest.raises(DataError, match=r"part2\.h5, which has shape \(7, 8, 5\)"):
        layout.read(path)
    write_hdf5(tmp_path / parts[2], {"": {"other": DATA[:20]}})
    with pytest.raises(DataError, match=r"part2\.h5, which holds no such dataset"):
        layout.read(path)
    (tmp_path / parts[2]).write_text("text")
    with pytest.raises(DataError, match=r"part2\.h5: not an HDF5 file"):
        layout.read(path)


@pytest.mark.parametrize("name", ["data", "labels"])
@pytest.mark.parametrize(
    ("link", "message"),
    [
        (h5py.SoftLink("/raw/x"), "is a link to /raw/x, which does not exist"),
        (h5py.ExternalLink("raw.h5", "/x"), r"is a link to /x in the file raw\.h5"),
    ],
)
def test_broken_links(tmp_path: Path, name: str, link: object, message: str) -> None:
    content = numbered(40)
    path = write_hdf5(tmp_path / "a.h5", {"": {**content, name: link}})
    with pytest.raises(DataError, match=rf"a\.h5: {name}: {message}"):
        layout.read(path)


def test_valid_links(tmp_path: Path) -> None:
    raw = write_hdf5(tmp_path / "raw.h5", {"": numbered(40)})
    links = {name: h5py.ExternalLink(raw.name, name) for name in ("data", "labels")}
    split = layout.open_splits(write_hdf5(tmp_path / "a.h5", {"train": links}))["train"]
    assert split.shape == (40, 3, 2) and split.labels is not None


def test_values_that_were_never_written(tmp_path: Path) -> None:
    for name, options in {"whole": {}, "chunks": {"chunks": (6, 8, 5)}}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            data = file.create_dataset("data", SHAPE, np.float32, **options)
            if name == "chunks":
                data[:50] = DATA[:50]
            file.create_dataset("on_purpose", SHAPE, np.float32, fillvalue=0.0)
    with pytest.raises(DataError, match=r"whole\.h5: data: values were never written"):
        layout.read(tmp_path / "whole.h5")
    with pytest.raises(DataError, match=r"chunks\.h5: data: 1 of 10 chunks were never written"):
        layout.read(tmp_path / "chunks.h5")
    with h5py.File(tmp_path / "whole.h5", "r") as file:
        assert hdf5_file.check_stored(file["on_purpose"], "") == ()


def test_values_in_a_raw_file(tmp_path: Path) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(DATA.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        entries = [(str(raw), 0, DATA.nbytes)]
        file.create_dataset("data", SHAPE, np.float32, external=entries)
    assert layout.open_splits(tmp_path / "a.h5")[store.ROOT].sources == (raw,)
    raw.write_bytes(DATA.tobytes()[:100])
    with pytest.raises(DataError, match=r"raw\.bin, which has 100 bytes; expected 9600"):
        layout.read(tmp_path / "a.h5")
    raw.unlink()
    with pytest.raises(DataError, match=r"raw\.bin, which is missing"):
        layout.read(tmp_path / "a.h5")


def test_an_unknown_filter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=DATA, compression="gzip")
    monkeypatch.setattr(hdf5_file.h5py.h5z, "filter_avail", lambda code: False)
    monkeypatch.setattr(hdf5_file, "PLUGINS", "no_such_package")
    with pytest.raises(DataError, match=r"filter 1 \(deflate\).*Install the package"):
        layout.read(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": DATA.astype(float) * 1e300}, r"is beyond float32 .* first in sample 0"),
        ({"data": DATA, "labels": np.full(60, 1e300)}, r"labels: 1e\+300 is beyond float32"),
        ({"data": DATA, "labels": h5py.Empty("f4")}, "labels: an empty dataset of float32"),
        ({"data": h5py.Empty("f4")}, "data: an empty dataset of float32"),
        (
            {"data": DATA.swapaxes(0, 1), "labels": np.arange(60) % 3},
            r"look like \[T, N, \.\.\.\] with 60 samples. Swap",
        ),
        ({"data": DATA, "labels": np.full(60, 2**63, np.uint64)}, "9223372036854775808 is no cl"),
    ],
)
def test_invalid_values(tmp_path: Path, content: dict, message: str) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": content})
    with pytest.raises(DataError, match=message):
        layout.open_splits(path)


@pytest.mark.parametrize(("name", "meant"), [("validation", "val"), ("Test", "test")])
def test_groups_of_other_names_are_refused(tmp_path: Path, name: str, meant: str) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"train": numbered(40), name: numbered(8)})
    with pytest.raises(DataError, match=rf"group '{name}', which is not read; .*'{meant}'"):
        layout.read(path)


def test_whole_numbers_and_classes_in_attributes(tmp_path: Path) -> None:
    for attributes, message in [
        ({"symbols": 2.5}, r"symbols is .*2\.5.*; expected a whole number > 0"),
        ({"classes": [-1, 0]}, r"classes is \[-1, 0\]; expected integers from 0"),
        ({"classes": h5py.Empty("i8")}, "classes is .*expected integers"),
    ]:
        path = write_hdf5(tmp_path / "a.h5", {"": numbered(8)}, **attributes)
        with pytest.raises(DataError, match=message):
            layout.read(path)
