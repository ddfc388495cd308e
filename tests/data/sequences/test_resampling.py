"""Sequences resampled to another number of steps, once."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from neuro.data import store
from neuro.data.sequences.hdf5 import Hdf5Sequences
from neuro.data.sequences.resampling import FOLDER, linear, nearest
from tests.data.helpers import numbered, whole, write_hdf5


@pytest.mark.parametrize(("old", "new"), [(3, 7), (10, 4), (5, 5), (1, 3), (6, 1)])
def test_values_are_interpolated_between_the_centres_of_steps(old: int, new: int) -> None:
    values = np.random.default_rng(0).random((2, old, 3)).astype(np.float32)
    middles = (np.arange(new) + 0.5) / new * old - 0.5
    expected = np.empty((2, new, 3))
    for sample in range(2):
        for feature in range(3):
            expected[sample, :, feature] = np.interp(
                middles, np.arange(old), values[sample, :, feature]
            )
    found = linear(values, new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_classes_are_those_of_the_step_at_the_new_centre() -> None:
    assert nearest(np.array([[10, 20, 30]]), 6).tolist() == [[10, 10, 20, 20, 30, 30]]
    assert nearest(np.array([[10, 20, 30, 40, 50, 60]]), 3).tolist() == [[20, 40, 60]]
    assert nearest(np.array([[7]]), 3).tolist() == [[7, 7, 7]]


def source(folder: Path, content: dict, steps: int | None = 6, **settings) -> Hdf5Sequences:
    path = write_hdf5(folder / "a.h5", dict.fromkeys(("train", "val", "test"), content),
                      frame_rate=100.0)  # fmt: skip
    return Hdf5Sequences(path=str(path), root=str(folder), target_seq_len=steps, **settings)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (np.arange(8) % 3, lambda x: x),
        (np.arange(24).reshape(8, 3) % 5, lambda x: x[:, [0, 0, 1, 1, 2, 2]]),
        (np.random.default_rng(1).random((8, 2)), lambda x: x),
        (np.random.default_rng(1).random((8, 3, 2)), lambda x: linear(x, 6)),
    ],
)
def test_labels_per_step_are_resampled_too(tmp_path: Path, labels, wanted, in_memory) -> None:
    content = {"data": numbered(8)["data"], "labels": labels}
    data = source(tmp_path, content, in_memory=in_memory)
    inputs, targets = whole(data.loader("all", "val"))
    np.testing.assert_array_equal(inputs, linear(content["data"], 6))
    np.testing.assert_allclose(targets, wanted(labels), atol=1e-6)
    spec = data.spec("all")
    assert spec.timings == ((6, 5.0),)  # 30 ms as before, with twice as many steps
    assert Hdf5Sequences(
        path=str(tmp_path / "a.h5"), root=str(tmp_path), target_seq_len=6, rate_hz=1000.0
    ).spec("all").timings == ((6, 0.5),)


def test_without_the_key_no_file_is_written(tmp_path: Path) -> None:
    plain = source(tmp_path, numbered(8), None)
    assert plain.spec("all").timings == ((3, 10.0),)
    same = Hdf5Sequences(path=str(plain.path), root=str(tmp_path), target_seq_len=3)
    assert torch.equal(whole(same.loader("all", "val"))[0], whole(plain.loader("all", "val"))[0])
    assert not (tmp_path / FOLDER).exists()


def test_uint8_data_keep_their_scale_and_held_frames_stay_held(tmp_path: Path) -> None:
    images = np.arange(48).reshape(8, 3, 2).astype(np.uint8) * 5
    bright = source(tmp_path, {"data": images, "labels": np.arange(8)})
    inputs, _ = whole(bright.loader("all", "val"))
    np.testing.assert_allclose(inputs, linear(images / np.float32(255), 6), rtol=1e-6)
    assert torch.equal(
        whole(source(tmp_path, {"data": images}, scale=1.0).loader("all", "val"))[0],
        torch.from_numpy(linear(images, 6)),
    )
    path = write_hdf5(tmp_path / "held.h5", {"": {"data": images[:, :1],
                      "labels": np.ones((8, 4), int)}}, frame_rate=10.0)  # fmt: skip
    with h5py.File(path, "a") as file:
        file["data"].attrs["frames"] = 4
    held = Hdf5Sequences(path=str(path), root=str(tmp_path), target_seq_len=6)
    batch = next(held.loader("all", "train").batches())
    assert (batch.frames, batch.inputs.shape[1], batch.targets.shape[1]) == (6, 1, 6)
    assert held.spec("all").timings == ((6, 400.0 / 6),)


def test_files_are_reused_and_replaced_when_damaged_or_stale(tmp_path: Path) -> None:
    first = whole(source(tmp_path, numbered(8)).loader("all", "val"))[0]
    (made,) = (tmp_path / FOLDER).glob("a-val-6-*.h5")
    before = made.stat().st_mtime_ns
    assert made.read_bytes()[:4] == b"\x89HDF"
    again = Hdf5Sequences(path=str(tmp_path / "a.h5"), root=str(tmp_path), target_seq_len=6)
    again.prepare()
    assert made.stat().st_mtime_ns == before
    assert "resampled from 3 to 6 steps" in h5py.File(made).attrs["generator"]
    made.write_bytes(b"\x89HDF nothing more")
    with pytest.warns(UserWarning, match="Damaged cache file is made again"):
        repaired = Hdf5Sequences(path=str(tmp_path / "a.h5"), root=str(tmp_path), target_seq_len=6)
        repaired.prepare()
    assert torch.equal(whole(repaired.loader("all", "val"))[0], first)
    changed = numbered(8)
    changed["data"] *= 2  # different content under the same name
    assert torch.equal(whole(source(tmp_path, changed).loader("all", "val"))[0], 2 * first)


def test_large_files_are_resampled_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BLOCK_BYTES", 240)
    content = numbered(95)
    inputs, _ = whole(source(tmp_path, content, in_memory=False).loader("all", "train"))
    np.testing.assert_array_equal(inputs, linear(content["data"], 6))
