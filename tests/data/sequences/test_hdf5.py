"""A user's own HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from neuro.data import store
from neuro.data.base import SPLITS, TargetSpec
from neuro.data.sequences.hdf5 import Hdf5Sequences, TaskFiles
from neuro.errors import DataError
from tests.data.helpers import flat, numbered, numbers, whole, write_hdf5


def one_file(folder: Path, splits: dict[str, Any], **settings: Any) -> Hdf5Sequences:
    path = write_hdf5(folder / "a.h5", splits, frame_rate=50.0)
    return Hdf5Sequences(path=str(path), **settings)


def test_one_file_with_all_splits(tmp_path: Path) -> None:
    data = one_file(tmp_path, {"train": numbered(30), "val": numbered(8), "test": numbered(9)})
    assert data.tasks == ("all",)
    spec = data.spec("all")
    assert (spec.inputs.shape, spec.timings, spec.targets.kind) == ((2,), ((3, 20.0),), "class")
    assert (spec.outputs, spec.classes) == (4, (0, 1, 2, 3))
    assert [data.loader("all", s).samples for s in SPLITS] == [30, 8, 9]
    inputs, targets = whole(data.loader("all", "val"))
    np.testing.assert_array_equal(inputs, numbered(8)["data"])
    assert targets.tolist() == [0, 1, 2, 3] * 2


def test_missing_splits_are_split_off_the_training_part(tmp_path: Path) -> None:
    for number, splits in enumerate(({"": numbered(100)}, {"train": numbered(100)})):
        folder = tmp_path / str(number)
        folder.mkdir()
        data = one_file(folder, splits)
        found = {s: flat(numbers(data.loader("all", s))) for s in SPLITS}
        assert [len(found[s]) for s in SPLITS] == [70, 20, 10]
        assert sorted(flat(found.values())) == list(range(100))
        assert whole(data.loader("all", "val"))[1].bincount().tolist() == [5, 5, 5, 5]
        path = str(folder / "a.h5")
        other = Hdf5Sequences(path=path, test_fraction=0.5, val_fraction=0.1, split_seed=1)
        assert [other.loader("all", s).samples for s in SPLITS] == [40, 10, 50]
        assert set(flat(numbers(other.loader("all", "val")))) != set(found["val"])
        again = Hdf5Sequences(path=path, in_memory=False, batch_size=3)
        assert {s: flat(numbers(again.loader("all", s))) for s in SPLITS} == found


def test_files_per_task_and_split(tmp_path: Path) -> None:
    a = write_hdf5(tmp_path / "a.h5", {"": numbered(20)}, frame_rate=100.0)
    b = write_hdf5(tmp_path / "b.h5", {"": numbered(10)}, frame_rate=100.0)
    later = numbered(12, frames=5)
    later["labels"] += 4
    c = write_hdf5(tmp_path / "c.h5", dict.fromkeys(SPLITS, later), frame_rate=10.0)
    files = {
        "first": TaskFiles(train=str(a), test=str(b)),
        "second": TaskFiles(train=str(c), val=str(c), test=str(c)),
        "off": None,
    }
    data = Hdf5Sequences(tasks=files, limit_test=6)
    assert data.tasks == ("first", "second")
    assert [data.loader("first", s).samples for s in SPLITS] == [16, 4, 6]
    assert [data.loader("second", s).samples for s in SPLITS] == [12, 12, 6]
    first, second = data.spec("first"), data.spec("second")
    assert first.outputs == second.outputs == 8
    assert (first.classes, second.classes) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (first.timings, second.timings) == (((3, 10.0),), ((5, 100.0),))


def test_keys_override_attributes(tmp_path: Path) -> None:
    data = one_file(
        tmp_path, {"": numbered(20)}, rate_hz=200.0, classes=(0, 1, 2, 3, 7), scale=2.0, outputs=9
    )
    spec = data.spec("all")
    assert (spec.timings, spec.classes, spec.outputs) == (((3, 5.0),), (0, 1, 2, 3, 7), 9)
    inputs, _ = whole(data.loader("all", "train"))
    plain, _ = whole(Hdf5Sequences(path=str(tmp_path / "a.h5")).loader("all", "train"))
    assert torch.equal(inputs, 2 * plain)
    loader = Hdf5Sequences(path=str(tmp_path / "a.h5"), batch_size=3).loader("all", "train")
    assert len(next(loader.batches()).targets) == 3


def test_stored_types_become_float32(tmp_path: Path) -> None:
    for stored, factor in ((np.uint8, 1 / 255), (bool, 1), (np.float64, 1), (np.float16, 1)):
        values = (np.arange(60).reshape(10, 3, 2) * 4).astype(stored)
        data = one_file(tmp_path, {"": {"data": values, "labels": np.arange(10) % 2}})
        inputs, _ = whole(data.loader("all", "test"))
        assert inputs.dtype == torch.float32
        assert inputs.max() <= values.max() * factor + 1e-6
        expected = {np.float32(x).tobytes() for x in values.astype(np.float32) * np.float32(factor)}
        assert {x.numpy().tobytes() for x in inputs} <= expected


@pytest.mark.parametrize(
    ("labels", "target", "outputs", "shape"),
    [
        (np.arange(20) % 3, "class", 3, (2,)),
        (np.arange(60).reshape(20, 3) % 5, "class_sequence", 5, (2, 3)),
        (np.ones(20), "value", 1, (2, 1)),
        (np.ones((20, 6)), "value", 6, (2, 6)),
        (np.ones((20, 3, 6)), "value_sequence", 6, (2, 3, 6)),
        (None, "value_sequence", 2, (2, 3, 2)),
    ],
)
def test_kinds_of_labels(tmp_path: Path, labels, target, outputs, shape) -> None:
    content = {"data": numbered(20)["data"]}
    if labels is not None:
        content["labels"] = labels
    data = one_file(tmp_path, {"": content})
    spec = data.spec("all")
    assert (spec.targets.kind, spec.outputs) == (target, outputs)
    _, targets = whole(data.loader("all", "test"))
    assert targets.shape == shape
    assert targets.dtype == (torch.int64 if "class" in target else torch.float32)
    if labels is None:
        assert torch.equal(targets, whole(data.loader("all", "test"))[0])


def images(samples: int = 20) -> dict[str, np.ndarray]:
    """Masks `[N, 1, 1, 4, 5]` whose first pixel is the sample's number, with images `[N, 4, 5]`."""
    rng = np.random.default_rng(1)
    masks, labels = rng.random((samples, 1, 1, 4, 5)), rng.random((samples, 4, 5))
    masks[:, 0, 0, 0, 0] = labels[:, 0, 0] = np.arange(samples)
    return {"data": masks.astype(np.float32), "labels": labels}


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_are_matched_with_their_samples(
    tmp_path: Path, monkeypatch, in_memory: bool
) -> None:
    monkeypatch.setattr(store, "BLOCK_BYTES", 240)  # three masks
    monkeypatch.setattr(store, "WINDOW_BYTES", 1440)  # two blocks of masks and images
    content = images()
    path = write_hdf5(tmp_path / "a.h5", {"": content})
    data = Hdf5Sequences(path=str(path), in_memory=in_memory, batch_size=4, val_fraction=0.3)
    spec = data.spec("all")
    assert spec.targets == TargetSpec("image", (4, 5))
    assert spec.timings == ((1, None),)
    reads: dict[str, list[int]] = {"data": [], "labels": []}
    original = store.BlockReader.read

    def counted(self: store.BlockReader, number: int) -> np.ndarray:
        reads[self._split.dataset].append(number)
        return original(self, number)

    monkeypatch.setattr(store.BlockReader, "read", counted)
    seen = []
    for batch in data.loader("all", "train", shuffle=True).batches():
        chosen = batch.inputs[:, 0, 0, 0, 0].int().tolist()
        expected = torch.from_numpy(content["labels"][chosen]).float()
        assert torch.equal(batch.targets, expected)
        assert batch.dt_ms is None
        seen += chosen
    assert len(set(seen)) == len(data.parts("all", "train")[0]) == 12
    assert sorted(reads["labels"]) == sorted(set(reads["labels"]))  # each block is read once
    assert reads["data"] == reads["labels"]


def test_classes_of_every_pixel(tmp_path: Path) -> None:
    labels = np.arange(20 * 6).reshape(20, 2, 3) % 5
    labels[3, 1] = store.NO_LABEL
    data = one_file(tmp_path, {"": {"data": numbered(20)["data"], "labels": labels}})
    spec = data.spec("all")
    assert spec.targets == TargetSpec("class_map", (2, 3), classes=5)
    assert spec.classes == (0, 1, 2, 3, 4)
    loader = data.loader("all", "train")
    for batch in loader.batches():
        assert batch.targets.tolist() == labels[batch.ids].tolist()
    spikes = one_file(tmp_path, {"": {**numbered(20), "labels": labels > 2}})
    assert spikes.spec("all").targets.classes == 2


def test_damaged_images_are_detected(tmp_path: Path) -> None:
    content = images()
    content["labels"][7, 1, 1] = np.nan
    with pytest.raises(DataError, match="labels: NaN or infinite values, first in sample 7"):
        one_file(tmp_path, {"": content}).prepare()
    splits = {"train": images(), "test": {**images(), "labels": np.ones((20, 4, 6))}}
    with pytest.raises(DataError, match=r"float labels \[N, 4, 6\], but .* \[N, 4, 5\]"):
        one_file(tmp_path, splits).prepare()


@pytest.mark.parametrize("labels", [np.ones((20, 4, 5)), np.ones((20, 4, 5), int)])
def test_labels_by_pixel_are_not_resampled(tmp_path: Path, labels) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": {**images(), "labels": labels}})
    data = Hdf5Sequences(path=str(path), root=str(tmp_path), target_seq_len=2)
    with pytest.raises(DataError, match="neither one per sample nor one per step"):
        data.prepare()


def test_steps_without_a_frame_rate_have_no_unit(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": numbered(20)})
    data = Hdf5Sequences(path=str(path))
    assert data.spec("all").timings == ((3, None),)
    assert next(data.loader("all", "val").batches()).dt_ms is None
    assert Hdf5Sequences(path=str(path), rate_hz=10.0).spec("all").timings == ((3, 100.0),)


def test_held_frames_of_a_user(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"": {"data": np.ones((10, 1, 2)),
                      "labels": np.ones((10, 7), int)}}, frame_rate=10)  # fmt: skip
    with h5py.File(path, "a") as file:
        file["data"].attrs["frames"] = 7
    data = Hdf5Sequences(path=str(path))
    assert data.spec("all").timings == ((7, 100.0),)
    batch = next(data.loader("all", "train").batches())
    assert batch.frames == 7
    assert batch.sequence().shape[:2] == batch.targets.shape


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give either one file or files for each task"):
        Hdf5Sequences()
    with pytest.raises(ValueError, match="give either one file or files for each task"):
        Hdf5Sequences(path="a", tasks={"t": TaskFiles(train="a", test="b")})
    with pytest.raises(ValueError, match="outputs: got 3 for classes up to 3"):
        Hdf5Sequences(path="a", classes=(1, 3), outputs=3)


@pytest.mark.parametrize(
    ("splits", "attributes", "settings", "message"),
    [
        ({"": numbered(20)}, {"frame_rate": 1, "classes": [0, 1, 2]}, {},
         r"label 3 of sample 3 .*outside the classes \(0, 1, 2\)"),
        ({"": numbered(20)}, {"frame_rate": 1}, {"classes": (0, 1)}, "label 2 of sample 2"),
        ({"": numbered(20)}, {"frame_rate": 1}, {"outputs": 2}, "label 3 with data.outputs=2"),
        ({"": {"data": np.ones((4, 3, 2)), "labels": [0, 1, -1, 0]}}, {"frame_rate": 1}, {},
         "label -1 of sample 2"),
        ({"": {"data": np.ones((4, 3, 2)), "labels": np.ones(4)}}, {"frame_rate": 1},
         {"classes": (1,)}, "labels are floats; expected integer classes"),
        ({"": numbered(1)}, {"frame_rate": 1}, {}, "1 sample; expected enough to split"),
        ({"val": numbered(9)}, {"frame_rate": 1}, {}, "holds val, but no group train"),
        ({"train": numbered(9), "test": numbered(9, frames=4)}, {"frame_rate": 1}, {},
         r"4 frames of \[2\] .*3 frames of \[2\].*expected the same for all splits"),
        ({"": numbered(20)}, {"frame_rate": 100, "duration_ms": 200}, {},
         "3 frames, but its attributes frame_rate and duration_ms make 20"),
        ({"": {"data": np.ones((4, 3, 2), "u1")}}, {"frame_rate": 1}, {}, "0 and 1 only"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, splits, attributes, settings, message) -> None:
    path = write_hdf5(tmp_path / "a.h5", splits, **attributes)
    with pytest.raises(DataError, match=rf"a\.h5.*{message}"):
        Hdf5Sequences(path=str(path), **settings).prepare()


def test_a_scale_key_allows_uint8_data(tmp_path: Path) -> None:
    spikes = np.ones((10, 3, 2), np.uint8)
    data = one_file(tmp_path, {"": {"data": spikes, "labels": np.zeros(10, int)}}, scale=1.0)
    assert whole(data.loader("all", "train"))[0].max() == 1.0


def test_a_file_of_the_wrong_split_is_named(tmp_path: Path) -> None:
    a = write_hdf5(tmp_path / "a.h5", {"": numbered(20)}, frame_rate=1)
    b = write_hdf5(tmp_path / "b.h5", {"val": numbered(20)}, frame_rate=1)
    data = Hdf5Sequences(tasks={"t": TaskFiles(train=str(a), test=str(b))})
    with pytest.raises(DataError, match=r"b\.h5: holds val; .*group test \(data.tasks.t.test\)"):
        data.prepare()
    with pytest.raises(DataError, match=r"none\.h5: no such file"):
        Hdf5Sequences(path=str(tmp_path / "none.h5")).prepare()


def test_one_file_per_task(tmp_path: Path) -> None:
    for name in "ab":
        write_hdf5(tmp_path / f"{name}.h5", {"": numbered(20)}, frame_rate=10.0)
    files = {name: TaskFiles(path=str(tmp_path / f"{name}.h5")) for name in "ab"}
    data = Hdf5Sequences(tasks={**files, "c": TaskFiles(train=str(tmp_path / "a.h5"))})
    for task in "abc":
        assert [data.loader(task, s).samples for s in SPLITS] == [14, 4, 2]
    for wrong in ({}, {"path": "a", "train": "b"}, {"path": "a", "test": "b"}, {"test": "b"}):
        with pytest.raises(ValueError, match="give either path, or train"):
            TaskFiles(**wrong)


def test_steps_may_have_no_label(tmp_path: Path) -> None:
    labels = np.arange(60).reshape(20, 3) % 5
    labels[:, 0] = store.NO_LABEL
    data = one_file(tmp_path, {"": {"data": numbered(20)["data"], "labels": labels}})
    spec = data.spec("all")
    assert (spec.targets.kind, spec.classes, spec.outputs) == ("class_sequence", (0, 1, 2, 3, 4), 5)
    assert (whole(data.loader("all", "train"))[1][:, 0] == store.NO_LABEL).all()
    whole_samples = {"data": numbered(20)["data"], "labels": labels[:, 0]}
    with pytest.raises(DataError, match="label -100 of sample 0"):
        one_file(tmp_path, {"": whole_samples}).prepare()


def test_labels_that_are_ids_are_refused(tmp_path: Path) -> None:
    labels = np.arange(60) % 3 * 400_000_000
    splits = {"train": {"data": np.ones((60, 8, 5), np.float32), "labels": labels}}
    with pytest.raises(DataError, match="labels up to 800000000 would need 800000001 outputs"):
        one_file(tmp_path, splits).prepare()
    one_file(tmp_path, splits, outputs=800_000_001).prepare()
