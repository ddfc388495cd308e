"""The HDF5 layout: round trips, and messages for files of another layout."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from neuro.data import layout, made, store
from neuro.errors import DataError
from tests.data.helpers import numbered, write_hdf5


def written(path: Path, samples: int = 40) -> Path:
    content = numbered(samples)
    blocks = [content["data"][:25], content["data"][25:]]
    made.write(
        path,
        {"train": made.Content(blocks, content["labels"])},
        rate_hz=100,
        duration_ms=30,
        classes=range(4),
        generator="test",
    )
    return path


def test_files_are_read_as_written(tmp_path: Path) -> None:
    split = layout.read(written(tmp_path / "a.h5"))["train"]
    assert split.shape == (40, 3, 2)
    assert (split.rate_hz, split.duration_ms, split.classes) == (100.0, 30.0, (0, 1, 2, 3))
    assert (split.frames, split.held_frames, split.scale) == (3, None, 1.0)
    assert split.labels is not None
    np.testing.assert_array_equal(split.labels, numbered(40)["labels"])
    with split.blocks() as reader:
        np.testing.assert_array_equal(reader.read(0), numbered(40)["data"])
    with h5py.File(split.path) as file:
        assert file.attrs["format"] == "neuro-sequence"
        assert file.attrs["version"] == 1
        assert file.attrs["generator"] == "test"
        assert file["train/data"].chunks == (40, 3, 2)  # at most the number of samples
        assert file["train/data"].compression is None


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def blocks():
        yield np.zeros((2, 3, 2), np.float32)
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        made.write(
            tmp_path / "a.h5",
            {"train": made.Content(blocks(), np.zeros(4, int))},
            rate_hz=1,
            duration_ms=3000,
            classes=[0],
            generator="",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/a\.h5: cannot be written"):
        written(tmp_path / "file" / "a.h5")


def test_temporary_files_of_killed_writers_only_are_removed(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.h5.1-1.tmp", tmp_path / ".a.h5.2-2.tmp"
    old.touch()
    young.touch()
    os.utime(old, times=(time.time() - 2 * made.STALE_SECONDS,) * 2)
    written(tmp_path / "a.h5")
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    ("splits", "attributes", "message"),
    [
        ({"train": {"x": np.zeros(3)}}, {}, r"train/data is missing; train holds x float64 \[3\]"),
        ({"a": {"x": np.zeros(3)}}, {}, r"holds a/ \(x\); expected groups train, val, test"),
        ({"": {"x": np.zeros(3)}}, {}, r"holds x float64 \[3\]; expected groups train"),
        (
            {"": {"data": np.zeros((3, 2, 2), "i4")}},
            {},
            r"data has dtype int32 and shape \(3, 2, 2\); expected uint8",
        ),
        ({"": {"data": np.zeros((3, 2, 2), "S2")}}, {}, "dtype |S2; expected uint8"),
        ({"": {"data": np.zeros((3, 2))}}, {}, r"data has shape \(3, 2\); expected \[samples"),
        ({"": {"data": np.zeros((0, 2, 2))}}, {}, "none of them 0"),
        ({"": {"data": np.zeros((3, 2, 2)), "labels": [0, 1]}}, {}, "3 samples but labels have"),
        ({"": {"data": np.zeros((1, 2, 2)), "labels": [b"x"]}}, {}, "expected a dataset of int"),
        (
            {"": {"data": np.zeros((3, 2, 2)), "labels": np.zeros((3, 0), int)}},
            {},
            r"labels have shape \(3, 0\)",
        ),
        ({"": {"data": np.zeros((1, 2, 2)), "labels": [np.nan]}}, {}, "labels: NaN"),
        ({"": {"data": np.zeros((1, 2, 2))}}, {"frame_rate": 0}, "frame_rate is .*number > 0"),
        ({"": {"data": np.zeros((1, 2, 2))}}, {"frame_rate": "fast"}, "frame_rate is .*'fast'"),
        ({"": {"data": np.zeros((1, 2, 2))}}, {"classes": [0.5]}, "classes is .*integers"),
        (
            {"": {"data": np.zeros((1, 2, 2))}},
            {"format": "neuro-sequence", "version": 9},
            "layout version 9; this program reads up to 1",
        ),
    ],
)
def test_foreign_content_is_described(tmp_path: Path, splits, attributes, message) -> None:
    path = write_hdf5(tmp_path / "a.h5", splits, **attributes)
    with pytest.raises(DataError, match=rf"a\.h5.*{message}"):
        layout.read(path)


def test_held_frames_are_stored_once(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": {"data": np.zeros((4, 2, 3))}})
    with h5py.File(path, "a") as file:
        file["data"].attrs["frames"] = 7
    with pytest.raises(DataError, match=r"frames = 7 .*but 2 frames are stored"):
        layout.read(path)


def test_missing_foreign_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.h5: no such file"):
        layout.read(tmp_path / "none.h5")
    with pytest.raises(DataError, match="is a directory; expected an HDF5 file"):
        layout.read(tmp_path)
    (tmp_path / "text.h5").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(DataError, match=r"not an HDF5 file \(begins with b'a,b,c"):
        layout.read(tmp_path / "text.h5")
    path = written(tmp_path / "short.h5")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"short\.h5: damaged or truncated HDF5 file"):
        layout.read(path)


def test_flipped_bits_are_detected_by_the_checksum(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5")
    with h5py.File(path) as file:
        place = file["train/data"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train/data: damaged or truncated"):
        layout.read(path)["train"].verify()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(tmp_path: Path, bad: float) -> None:
    content = numbered(300)
    content["data"][123, 1, 1] = bad
    split = layout.read(write_hdf5(tmp_path / "a.h5", {"val": content}))["val"]
    with pytest.raises(DataError, match=r"val/data: NaN or infinite values, first in sample 123"):
        split.verify()


def test_uint8_of_unknown_meaning_is_refused(tmp_path: Path) -> None:
    spikes = {"data": np.ones((4, 3, 2), np.uint8)}
    split = layout.read(write_hdf5(tmp_path / "a.h5", {"": spikes}))[store.ROOT]
    with pytest.raises(DataError, match=r"0 and 1 only.*scale = 1 for spikes"):
        split.verify()
    split.verify(scale=1.0)
    spikes["data"][0] = 255
    layout.read(write_hdf5(tmp_path / "b.h5", {"": spikes}))[store.ROOT].verify()


def test_a_full_disk_gives_one_message_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [np.ones((64, 100, 10), np.float32)] * 20
    write = made.io.FileIO.write
    room = 1 << 21

    class Full(made.io.FileIO):
        def write(self, content):
            if self.tell() + len(content) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(self, content)

    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Full(path, mode))
    path = tmp_path / "a.h5"
    with pytest.raises(DataError, match=r"a\.h5 cannot be written: the disk / is full.*data\.root"):
        made.write(path, {"": made.Content(blocks, None, samples=1280)}, generator="test")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written \((Not a directory|File exists)\)"):
        made.write(tmp_path / "file" / "a.h5", {}, generator="test")
