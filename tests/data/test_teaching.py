"""Teacher trajectories: files, and their assignment to the samples of batches."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from neuro.data import store
from neuro.data.base import Batch, DataSource
from neuro.data.images.digits import DigitImages
from neuro.data.images.tasks import TaskDefinition, Timing
from neuro.data.images.temporal import TemporalImages
from neuro.data.sequences.hdf5 import Hdf5Sequences
from neuro.data.teaching import FOLDER
from neuro.data.transforms import Noise, TimeShift
from neuro.errors import ConfigError
from tests.data.helpers import numbered, write_hdf5

SAMPLES = 95


def taught(batch: Batch) -> torch.Tensor:
    """Teacher with four outputs `[B, T, 4]` that grow over time."""
    steps = torch.arange(1.0, batch.steps + 1)[:, None]
    return batch.sequence().flatten(2).sum(-1, keepdim=True) * steps * torch.ones(4)


class Counted:
    """`taught`, counting the samples of its calls."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.samples += len(batch.targets)
        return taught(batch)


def source(folder: Path, samples: int = SAMPLES, **settings) -> Hdf5Sequences:
    path = folder / "data.h5"
    if not path.exists():
        splits = {"train": numbered(samples), "val": numbered(5), "test": numbered(7)}
        write_hdf5(path, splits, frame_rate=100.0)
    return Hdf5Sequences(path=str(path), root=str(folder), **{"batch_size": 8, **settings})


def assert_own(batch: Batch, inputs: torch.Tensor | None = None) -> None:
    """Assert that a batch carries the teacher's outputs for its samples."""
    assert batch.teacher is not None
    seen = batch if inputs is None else batch._replace(inputs=inputs)
    torch.testing.assert_close(batch.teacher, taught(seen))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("small_blocks", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
def test_each_batch_has_the_trajectories_of_its_samples(
    tmp_path: Path, monkeypatch, in_memory: bool, shuffle: bool, small_blocks: bool,
    world_size: int,
) -> None:  # fmt: skip
    if small_blocks:  # several windows, and different blocks for trajectories and samples
        monkeypatch.setattr(store, "BLOCK_BYTES", 240)
        monkeypatch.setattr(store, "WINDOW_BYTES", 1440)
    data = source(tmp_path, in_memory=in_memory)
    data.teach("all", "train", "key", taught)
    assert data.spec("all").teacher == 4
    seen = 0
    for rank in range(world_size):
        loader = data.loader(
            "all", "train", shuffle=shuffle, seed=3, rank=rank, world_size=world_size
        )
        every = list(loader.batches(epoch=2))
        for batch in every:
            assert_own(batch)
            seen += len(batch.targets)
        late = list(loader.batches(epoch=2, start=3))  # as after a resume
        assert len(late) == len(every) - 3
        assert all(torch.equal(a.teacher, b.teacher) for a, b in zip(late, every[3:], strict=True))
    assert seen == SAMPLES
    assert next(data.loader("all", "val").batches()).teacher is None


def test_blocks_of_trajectories_are_read_once_per_epoch(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "BLOCK_BYTES", 240)  # 10 samples, 5 trajectories of 48 bytes
    monkeypatch.setattr(store, "WINDOW_BYTES", 1440)  # 2 blocks of samples with their trajectories
    data = source(tmp_path, in_memory=False)
    data.teach("all", "train", "key", taught)
    read: list[tuple[str, int]] = []
    original = store.BlockReader.read

    def counted(self: store.BlockReader, number: int) -> np.ndarray:
        read.append((self._split.path.name, number))
        return original(self, number)

    monkeypatch.setattr(store.BlockReader, "read", counted)
    for batch in data.loader("all", "train", shuffle=True, seed=1).batches():
        assert_own(batch)
    assert len(read) == len(set(read)) == 10 + 19


def test_trajectories_are_computed_once_for_a_teacher_and_its_samples(tmp_path: Path) -> None:
    def samples_computed(key: str = "key", **settings) -> int:
        teacher = Counted()
        source(tmp_path, **settings).teach("all", "train", key, teacher)
        return teacher.samples

    assert samples_computed() == SAMPLES
    assert samples_computed() == 0
    assert samples_computed(batch_size=20, in_memory=False) == 0
    assert samples_computed(key="another teacher") == SAMPLES
    assert samples_computed(limit_train=10) == 10
    assert samples_computed(min_scale=0.0, max_scale=1.0) == SAMPLES
    assert samples_computed(target_seq_len=6) == SAMPLES
    assert samples_computed(rate_hz=50.0) == SAMPLES
    (tmp_path / "data.h5").unlink()
    assert samples_computed() == SAMPLES  # the file is written again


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    source(tmp_path).teach("all", "train", "key", taught)
    (path,) = (tmp_path / FOLDER).glob("all-train-0-*.h5")
    with h5py.File(path) as file:
        assert file["data"].shape == (SAMPLES, 3, 4)
        assert file["data"].dtype == np.float32
        assert file["data"].chunks == (SAMPLES, 3, 4)
        assert file.attrs["frame_rate"] == 100.0
        assert "data.h5" in file.attrs["generator"]
        batch = next(source(tmp_path).loader("all", "train", batch_size=SAMPLES).batches())
        np.testing.assert_allclose(file["data"], taught(batch), rtol=1e-6)


@pytest.mark.parametrize("how", ["truncated", "other samples"])
def test_damaged_files_are_replaced(tmp_path: Path, how: str) -> None:
    source(tmp_path).teach("all", "train", "key", taught)
    (path,) = (tmp_path / FOLDER).iterdir()
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        write_hdf5(path, {"": {"data": np.ones((3, 3, 4), np.float32)}}, frame_rate=100.0)
    data, teacher = source(tmp_path), Counted()
    with pytest.warns(UserWarning, match="Damaged cache file is made again"):
        data.teach("all", "train", "key", teacher)
    assert teacher.samples == SAMPLES
    for batch in data.loader("all", "train").batches():
        assert_own(batch)


def test_a_teacher_gets_inputs_without_transforms(tmp_path: Path) -> None:
    data = source(tmp_path, transforms={"noise": Noise(1.0)})
    data.teach("all", "train", "key", taught)
    original = {int(i): x for i, x in enumerate(numbered(SAMPLES)["data"])}
    clean = source(tmp_path).loader("all", "train", shuffle=True, seed=1)
    changed = data.loader("all", "train", shuffle=True, seed=1)
    for before, after in zip(clean.batches(), changed.batches(), strict=True):
        assert not torch.equal(before.inputs, after.inputs)
        numbers = before.inputs[:, 0, 0].int().tolist()
        assert_own(after, torch.from_numpy(np.stack([original[n] for n in numbers])))


def test_transforms_that_move_steps_are_refused(tmp_path: Path) -> None:
    data = source(tmp_path, transforms={"late": TimeShift(20.0)})
    data.prepare()
    with pytest.raises(ConfigError, match="data.transforms.late: .*not the teacher's trajectories"):
        data.teach("all", "train", "key", taught)


def test_held_frames_and_several_timings(tmp_path: Path) -> None:
    data = TemporalImages(
        images=DigitImages(),
        timings={"a": Timing(100.0, 40.0), "b": Timing(50.0, 120.0)},
        tasks={"both": TaskDefinition((0, 1), ("a", "b"))},
        root=str(tmp_path),
        limit_train=30,
    )
    data.teach("both", "train", "key", taught)
    steps = set()
    for batch in data.loader("both", "train", shuffle=True, seed=0).batches():
        assert batch.frames is not None
        assert_own(batch)
        steps.add(batch.teacher.shape[1])
    assert steps == {4, 6}
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


@pytest.mark.parametrize("small_blocks", [True, False])
def test_mixtures_lie_between_two_samples_and_have_no_label(
    tmp_path: Path, monkeypatch, small_blocks: bool
) -> None:
    if small_blocks:  # also in several windows
        monkeypatch.setattr(store, "BLOCK_BYTES", 240)
        monkeypatch.setattr(store, "WINDOW_BYTES", 1440)
    teacher, data = Counted(), source(tmp_path)
    data.teach("all", "train", "key", teacher, mixtures=2)
    assert teacher.samples == 3 * SAMPLES
    assert data.spec("all").partly_labelled
    own = torch.from_numpy(numbered(SAMPLES)["data"])[:, :, 1].double()
    seen = {"own": 0, "mixed": []}
    for batch in data.loader("all", "train", shuffle=True, seed=3).batches():
        assert_own(batch)
        if (batch.targets != store.NO_LABEL).all():
            seen["own"] += len(batch.targets)
        else:
            assert (batch.targets == store.NO_LABEL).all()
            seen["mixed"] += batch.inputs[:, :, 1].double()
    assert seen["own"] == SAMPLES
    assert len(seen["mixed"]) == 2 * SAMPLES
    a, b = (own[i] for i in torch.triu_indices(SAMPLES, SAMPLES, 1))
    for mixture in seen["mixed"][::10]:  # the nearest point on the lines between pairs of samples
        share = ((mixture - b) * (a - b)).sum(1) / (a - b).square().sum(1)
        points = share[:, None] * a + (1 - share[:, None]) * b
        distance = (points - mixture).norm(dim=1).where((share >= 0) & (share <= 1), 1.0)
        assert distance.min() < 1e-6
    shares = torch.stack(seen["mixed"])
    assert not any(torch.allclose(mixture, sample) for mixture in shares[:5] for sample in own)


def test_mixtures_are_generated_once_and_keep_held_frames(tmp_path: Path) -> None:
    def digits(**settings) -> TemporalImages:
        data = TemporalImages(images=DigitImages(), root=str(tmp_path), limit_train=30, **settings)
        data.teach("all", "train", "key", taught, mixtures=3)
        return data

    first, again = digits(), digits()
    assert len(list((tmp_path / FOLDER).glob("all-train-0-mixed-*.h5"))) == 2  # and trajectories
    assert first.loader("all", "train").samples == 120
    assert first.loader("all", "test").samples == 359
    for one, two in zip(*(d.loader("all", "train").batches() for d in (first, again)), strict=True):
        assert one.frames == 20
        assert one.inputs.shape[1] == 1
        assert torch.equal(one.inputs, two.inputs)
    digits(split_seed=5)
    assert len(list((tmp_path / FOLDER).glob("all-train-0-mixed-*.h5"))) == 4


@pytest.mark.parametrize("what", ["values", "symbols"])
def test_only_samples_with_classes_are_mixed(tmp_path: Path, what: str) -> None:
    rng = np.random.default_rng(0)
    if what == "values":
        content = {"data": rng.random((20, 3, 2)), "labels": rng.random((20, 2))}
    else:
        content = {"data": rng.integers(3, size=(20, 3)), "labels": np.arange(20) % 2}
    path = write_hdf5(tmp_path / "data.h5", {"": content}, frame_rate=100.0)
    encoding = {"input_encoding": "one_hot"} if what == "symbols" else {}
    data = Hdf5Sequences(path=str(path), root=str(tmp_path), **encoding)
    with pytest.raises(ConfigError, match="teacher_mixtures: .*no samples with integer classes"):
        data.teach("all", "train", "key", taught, mixtures=1)


def test_sources_without_files_are_refused() -> None:
    class Other(DataSource):
        tasks = ("a",)

        def prepare(self) -> None: ...
        def spec(self, task): ...
        def loader(self, task, split, **options): ...

    with pytest.raises(ConfigError, match="teacher: Other keeps no trajectories"):
        Other().teach("a", "train", "key", taught)
    assert Other().measured() == {}
