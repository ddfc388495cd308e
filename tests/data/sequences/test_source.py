"""Batches: order, division among processes, and reading in memory or lazily."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from neuro.data import loading, store
from neuro.data.loading import available_memory, cuts
from neuro.data.parts import Part, stratified_order
from neuro.data.sequences.hdf5 import Hdf5Sequences
from neuro.errors import ConfigError, DataError
from tests.data.helpers import flat, numbered, numbers, whole, write_hdf5


def source(folder: Path, samples: int = 50, **settings) -> Hdf5Sequences:
    path = folder / "data.h5"
    if not path.exists():
        splits = {"train": numbered(samples), "val": numbered(5), "test": numbered(7)}
        write_hdf5(path, splits, frame_rate=100.0)
    return Hdf5Sequences(path=str(path), **{"batch_size": 8, **settings})


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use blocks of 10 samples of `numbered` data (24 bytes each) and windows of 2 blocks."""
    monkeypatch.setattr(store, "BLOCK_BYTES", 240)
    monkeypatch.setattr(store, "WINDOW_BYTES", 480)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the numbers of the blocks that are read."""
    numbers_read: list[int] = []
    original = store.BlockReader.read

    def counted(self: store.BlockReader, number: int) -> np.ndarray:
        numbers_read.append(number)
        return original(self, number)

    monkeypatch.setattr(store.BlockReader, "read", counted)
    return numbers_read


def test_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        return numbers(source(tmp_path).loader("all", "train", shuffle=True, seed=seed), number)

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    assert [len(batch) for batch in epoch(0, 0)] == [8, 8, 8, 8, 8, 8, 2]
    assert sorted(flat(epoch(0, 0))) == list(range(50))


def test_evaluation_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    loader = source(tmp_path).loader("all", "train", batch_size=20, seed=5)
    assert flat(numbers(loader, epoch=3)) == list(range(50))
    assert len(loader) == 3
    assert loader.samples == 50


@pytest.mark.parametrize("limit", [None, 20])
def test_ids_number_the_samples_of_a_file(tmp_path: Path, limit: int | None) -> None:
    data = source(tmp_path, limit_train=limit)
    seen = []
    for epoch in (0, 1):
        for batch in data.loader("all", "train", shuffle=True).batches(epoch):
            assert batch.ids.tolist() == batch.inputs[:, 0, 0].int().tolist()
            assert (batch.task, batch.ids.dtype) == ("all", torch.int64)
            seen += batch.ids.tolist()
    assert len(set(seen)) == (limit or 50)


@pytest.mark.parametrize("in_memory", [True, False])
def test_start_skips_batches_without_reading_them(
    tmp_path: Path, small_blocks: None, read: list[int], in_memory: bool
) -> None:
    loader = source(tmp_path, in_memory=in_memory).loader("all", "train", shuffle=True, seed=2)
    every = numbers(loader, epoch=1)
    for start in range(len(loader) + 2):
        assert numbers(loader, 1, start) == every[start:]
    read.clear()
    assert numbers(loader, 1, len(loader) - 1) == every[-1:]
    assert len(read) <= (0 if in_memory else 2)


def test_lazy_reading_equals_memory_equals_sample_by_sample(
    tmp_path: Path, small_blocks: None
) -> None:
    epochs = {}
    for in_memory in (True, False, "auto"):
        loader = source(tmp_path, 95, in_memory=in_memory).loader(
            "all", "train", shuffle=True, seed=1
        )
        epochs[in_memory] = list(loader.batches(4))
    single = source(tmp_path, in_memory=False).loader("all", "train", batch_size=1)
    samples = [batch.inputs[0] for batch in single.batches()]
    content = numbered(95)
    for eager, lazy, auto in zip(*epochs.values(), strict=True):
        assert torch.equal(eager.inputs, lazy.inputs)
        assert torch.equal(eager.targets, lazy.targets)
        assert torch.equal(eager.inputs, auto.inputs)
        for values, target in zip(eager.inputs, eager.targets, strict=True):
            number = int(values[0, 0])
            assert torch.equal(values, samples[number])
            np.testing.assert_array_equal(values, content["data"][number])
            assert target == content["labels"][number]


def test_large_splits_are_shuffled_within_windows_of_random_blocks(
    tmp_path: Path, small_blocks: None, read: list[int]
) -> None:
    data = source(tmp_path, 95, in_memory=False)
    loader = data.loader("all", "train", shuffle=True, seed=1)
    read.clear()
    order = flat(numbers(loader))
    assert sorted(order) == list(range(95))
    assert sorted(read) == list(range(10))  # each block once
    assert read != sorted(read)
    window = np.array(order[:20]) // 10
    assert len(set(window)) == 2
    assert np.count_nonzero(np.diff(window)) > 1  # samples of several blocks are mixed


def test_only_the_blocks_of_a_limited_split_are_read(
    tmp_path: Path, small_blocks: None, read: list[int]
) -> None:
    limited = source(tmp_path, 95, limit_train=1, in_memory=True)
    limited.prepare()
    read.clear()
    assert len(flat(numbers(limited.loader("all", "train")))) == 1
    assert len(read) == 1


@pytest.mark.parametrize("samples", [50, 49, 8, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_is_in_one_process(
    tmp_path: Path, samples: int, world_size: int, shuffle: bool
) -> None:
    data = source(tmp_path, samples)
    loaders = [
        data.loader("all", "train", shuffle=shuffle, seed=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    shares = [numbers(loader) for loader in loaders]
    assert {len(share) for share in shares} == {len(loaders[0])}
    assert all(loader.samples == samples for loader in loaders)
    together = [flat(batch) for batch in zip(*shares, strict=True)]
    seen = flat(together)
    if shuffle and samples < world_size:  # duplicates are unavoidable: every process needs a sample
        assert set(seen) == set(range(samples))
        assert all(len(share[0]) == 1 for share in shares)
    else:
        assert sorted(seen) == list(range(samples))
    for batch in zip(*shares, strict=True):
        sizes = [len(share) for share in batch]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1 or (samples < world_size and not shuffle)
    alone = numbers(data.loader("all", "train", shuffle=shuffle, seed=1))
    assert (
        together[: len(together) - 1] == alone[: len(together) - 1]
    )  # for any number of processes


def test_a_last_batch_too_small_for_all_processes_is_merged() -> None:
    assert cuts(17, batch_size=8, world_size=1) == [(0, 8), (8, 16), (16, 17)]
    assert cuts(17, batch_size=8, world_size=2) == [(0, 8), (8, 17)]
    assert cuts(18, batch_size=8, world_size=2) == [(0, 8), (8, 16), (16, 18)]
    assert cuts(1, batch_size=8, world_size=4) == [(0, 1)]


def test_an_empty_part_of_an_evaluation_keeps_its_shape(tmp_path: Path) -> None:
    (batch,) = source(tmp_path).loader("all", "val", rank=6, world_size=7).batches()
    assert batch.inputs.shape == (0, 3, 2)
    assert batch.targets.shape == (0,)


def test_batch_size_below_the_number_of_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size: got 2 for 3 processes"):
        source(tmp_path, batch_size=2).loader("all", "train", world_size=3)


def test_unknown_tasks_and_splits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no task 'al'; it has all\. Did you mean 'all'"):
        source(tmp_path).spec("al")
    with pytest.raises(ConfigError, match="no split 'dev'"):
        source(tmp_path).loader("all", "dev")  # type: ignore[arg-type]


def test_data_are_kept_in_memory_if_there_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(in_memory: bool | str, available: int, world_size: int = 1) -> bool:
        monkeypatch.setattr(loading, "available_memory", lambda: available)
        data = source(tmp_path, in_memory=in_memory)
        whole(data.loader("all", "train", world_size=world_size))
        (part,) = data.parts("all", "train")
        assert isinstance(part, Part)
        return part._memory is not None

    assert kept("auto", 1 << 30)
    assert not kept(
        "auto", 50 * 24
    )  # exactly the size of the split, of which only a fraction may be used
    assert kept("auto", 4 * 50 * 24)
    assert not kept("auto", 4 * 50 * 24, world_size=2)
    assert kept(True, 0)
    assert not kept(False, 1 << 30)
    assert available_memory() > 1 << 20


def test_nan_in_an_unverified_file_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = numbered(20)
    content["data"][7, 1, 0] = np.nan
    path = write_hdf5(tmp_path / "a.h5", {"train": content}, frame_rate=1)
    with pytest.raises(DataError, match="first in sample 7"):
        Hdf5Sequences(path=str(path)).prepare()
    monkeypatch.setattr(store, "VERIFIED_BYTES", 10)
    for in_memory in (True, False):
        data = Hdf5Sequences(path=str(path), in_memory=in_memory)
        with pytest.raises(DataError, match="first in sample 7"):
            whole(data.loader("all", "train"))


def test_batches_may_be_changed_without_changing_the_data(tmp_path: Path) -> None:
    for shuffle in (True, False):
        data = source(tmp_path, in_memory=True)
        before, labels = whole(data.loader("all", "train", shuffle=shuffle))
        for batch in data.loader("all", "train", shuffle=shuffle).batches():
            batch.inputs.zero_()
            batch.targets.zero_()
        after, labels_after = whole(data.loader("all", "train", shuffle=shuffle))
        assert torch.equal(before, after)
        assert torch.equal(labels, labels_after)


def test_sources_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    data = source(tmp_path, in_memory=False)
    whole(data.loader("all", "train"))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(whole(copy.loader("all", "val"))[0], whole(data.loader("all", "val"))[0])


def test_every_prefix_of_a_stratified_order_is_stratified() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for end in (10, 20, 50, 70):
        counts = np.bincount(labels[order[:end]], minlength=3) / end
        np.testing.assert_allclose(counts, [0.6, 0.3, 0.1], atol=1 / end)
