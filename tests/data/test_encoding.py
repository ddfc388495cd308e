"""Scaling by the range of the training split, and one-hot symbols."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from neuro.data import parts, store
from neuro.data.base import InputSpec, TargetSpec
from neuro.data.parts import one_hot
from neuro.data.sequences.hdf5 import Hdf5Sequences
from neuro.errors import DataError
from neuro.learning.paradigms import as_learned
from tests.data.helpers import numbered, whole, write_hdf5


def splits(**factors: float) -> dict[str, dict[str, np.ndarray]]:
    """Splits of the same values times a factor."""
    content = np.random.default_rng(0).random((12, 4, 2)).astype(np.float32) + 1
    labels = np.arange(12) % 3
    return {name: {"data": content * factor, "labels": labels} for name, factor in factors.items()}


def source(folder: Path, found: dict, **settings) -> Hdf5Sequences:
    path = write_hdf5(folder / "a.h5", found, frame_rate=100.0)
    return Hdf5Sequences(path=str(path), root=str(folder), **settings)


@pytest.mark.parametrize("in_memory", [True, False])
def test_scaling_uses_the_training_split_only(tmp_path: Path, in_memory: bool) -> None:
    found = splits(train=1, val=10, test=100)
    data = source(tmp_path, found, min_scale=-1.0, max_scale=3.0, in_memory=in_memory)
    train, _ = whole(data.loader("all", "train"))
    assert (train.min(), train.max()) == (pytest.approx(-1, abs=1e-6), pytest.approx(3, abs=1e-6))
    low, high = found["train"]["data"].min(), found["train"]["data"].max()
    for name in ("val", "test"):
        expected = -1 + 4 * (found[name]["data"] - low) / (high - low)
        np.testing.assert_allclose(whole(data.loader("all", name))[0], expected, rtol=1e-5)
    assert data.measured() == {"value_range": [pytest.approx(low), pytest.approx(high)]}


def test_a_saved_range_is_used_instead_of_measuring(tmp_path: Path) -> None:
    trained = source(tmp_path, splits(train=1), min_scale=0.0, max_scale=1.0)
    trained.prepare()
    other = write_hdf5(tmp_path / "other.h5", splits(train=50, val=50, test=50), frame_rate=100.0)
    keys = {"min_scale": 0.0, "max_scale": 1.0, "root": str(tmp_path)}
    kept = Hdf5Sequences(
        path=str(other), **keys, value_range=tuple(trained.measured()["value_range"])
    )
    assert whole(kept.loader("all", "test"))[0].max() > 90
    measured = Hdf5Sequences(path=str(other), **keys)
    assert whole(measured.loader("all", "test"))[0].max() == pytest.approx(1.0)
    assert kept.measured() == trained.measured()


def test_samples_split_off_or_limited_are_not_measured(tmp_path: Path) -> None:
    content = numbered(40)  # the first value is the sample's number
    data = source(tmp_path, {"": content}, min_scale=0.0, max_scale=1.0, limit_train=5)
    (part,) = data.parts("all", "train")
    rows = part.rows  # type: ignore[attr-defined]
    assert data.measured()["value_range"][1] == content["data"][rows].max()
    assert len(rows) == 5


def test_resampling_comes_before_scaling(tmp_path: Path) -> None:
    peak = np.zeros((10, 9, 1), np.float32)
    peak[:, 4] = 3.0  # between the centres of two new steps
    data = source(tmp_path, {"": {"data": peak}}, min_scale=0.0, max_scale=1.0, target_seq_len=2)
    with pytest.raises(DataError, match="all training values are 0, which no line maps"):
        data.prepare()
    peak[:, 2] = 6.0
    inputs, _ = whole(
        source(
            tmp_path, {"": {"data": peak}}, min_scale=0.0, max_scale=5.0, target_seq_len=6
        ).loader("all", "train")
    )
    assert inputs.max() == 5.0


def test_without_the_keys_values_are_not_changed(tmp_path: Path) -> None:
    found = splits(train=1, val=2, test=3)
    data = source(tmp_path, found)
    np.testing.assert_array_equal(whole(data.loader("all", "test"))[0], found["test"]["data"])
    assert data.measured() == {}


SYMBOLS = np.array([[0, 2, 1], [2, 2, 0], [1, 0, 2], [0, 1, 1]])


@pytest.mark.parametrize("stored", [np.uint8, np.int16, np.int64, np.uint32])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_symbols_become_one_hot(tmp_path: Path, stored, shape, in_memory: bool) -> None:
    content = {"data": SYMBOLS.astype(stored).reshape(shape), "labels": np.arange(4)}
    found = dict.fromkeys(("train", "val", "test"), content)
    data = source(tmp_path, found, input_encoding="one_hot", in_memory=in_memory)
    inputs, targets = whole(data.loader("all", "val"))
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, torch.eye(3)[SYMBOLS])
    assert targets.tolist() == [0, 1, 2, 3]
    spec = data.spec("all")
    assert (spec.inputs, spec.targets.kind) == (InputSpec((3,), vocabulary=3), "class")
    assert data.measured() == {"symbols": 3}


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1)])
def test_tokens_stay_integers(tmp_path: Path, shape) -> None:
    content = {"data": SYMBOLS.astype(np.uint8).reshape(shape), "labels": np.arange(4)}
    found = dict.fromkeys(("train", "val", "test"), content)
    data = source(tmp_path, found, input_encoding="tokens", symbols=7)
    inputs, _ = whole(data.loader("all", "val"))
    assert inputs.dtype == torch.int64
    assert inputs.tolist() == SYMBOLS.tolist()
    assert data.spec("all").inputs == InputSpec((), "int", vocabulary=7)
    assert data.measured() == {"symbols": 7}
    with pytest.raises(DataError, match=r"symbol 2; expected 0 to 1"):
        source(tmp_path, found, input_encoding="tokens", symbols=2).prepare()


def test_tokens_are_predicted_one_step_ahead(tmp_path: Path) -> None:
    found = {key: {"data": SYMBOLS} for key in ("train", "val", "test")}
    data = source(tmp_path, found, input_encoding="tokens")
    assert data.spec("all").targets == TargetSpec("token", classes=3)
    (batch,) = as_learned(data, "self_supervised").loader("all", "val").batches()
    assert batch.inputs.tolist() == SYMBOLS.tolist()
    assert batch.targets[:, :-1].tolist() == SYMBOLS[:, 1:].tolist()
    assert (batch.targets[:, -1] == store.NO_LABEL).all()


def test_symbols_without_labels_are_their_own_targets(tmp_path: Path) -> None:
    found = {key: {"data": SYMBOLS} for key in ("train", "val", "test")}
    data = source(tmp_path, found, input_encoding="one_hot", symbols=5)
    spec = data.spec("all")
    assert (spec.targets.kind, spec.outputs, spec.classes) == ("token", 5, (0, 1, 2, 3, 4))
    inputs, targets = whole(data.loader("all", "val"))
    assert targets.tolist() == SYMBOLS.tolist()
    assert inputs.shape == (4, 3, 5)


def test_the_number_of_symbols(tmp_path: Path) -> None:
    found = {key: {"data": SYMBOLS} for key in ("train", "val", "test")}
    path = source(tmp_path, found).path
    assert path is not None
    with h5py.File(path, "a") as file:
        file.attrs["symbols"] = 7
    keys = {"path": str(path), "root": str(tmp_path), "input_encoding": "one_hot"}
    assert Hdf5Sequences(**keys).spec("all").inputs.shape == (7,)
    assert Hdf5Sequences(**keys, symbols=4).spec("all").inputs.shape == (4,)
    with pytest.raises(DataError, match=r"a\.h5: \w+/data: symbol 2; expected 0 to 1"):
        Hdf5Sequences(**keys, symbols=2).prepare()


@pytest.mark.parametrize("wrong", [3, -1])
def test_unknown_symbols_are_found_before_training_or_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    bad = SYMBOLS.copy()
    bad[2, 1] = wrong
    found = {"train": {"data": SYMBOLS}, "val": {"data": SYMBOLS}, "test": {"data": bad}}
    message = rf"test/data: symbol {wrong}; expected 0 to 2"
    with pytest.raises(DataError, match=message):
        source(tmp_path, found, input_encoding="one_hot").prepare()
    monkeypatch.setattr(store, "VERIFIED_BYTES", 10)
    data = source(tmp_path, found, input_encoding="one_hot")
    data.prepare()
    with pytest.raises(DataError, match=message):
        whole(data.loader("all", "test"))


def test_symbols_are_not_interpolated(tmp_path: Path) -> None:
    found = {key: {"data": SYMBOLS} for key in ("train", "val", "test")}
    data = source(tmp_path, found, input_encoding="one_hot", target_seq_len=6)
    _, targets = whole(data.loader("all", "val"))
    assert targets.tolist() == SYMBOLS[:, [0, 0, 1, 1, 2, 2]].tolist()


def test_one_hot_of_no_symbols_and_of_unknown_ones() -> None:
    assert one_hot(np.zeros((0, 3), np.int64), 4).shape == (0, 3, 4)
    with pytest.raises(ValueError, match="symbol 4; expected 0 to 3"):
        one_hot(np.array([[1, 4]]), 4)
    assert parts.Encoding(2.0, 1.0)(np.array([[3]], np.uint8)).tolist() == [[7.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_scale": 0.0}, "min_scale, max_scale: give both, or neither"),
        ({"max_scale": 0.0}, "min_scale, max_scale: give both, or neither"),
        ({"min_scale": 1.0, "max_scale": 1.0}, "min_scale, max_scale: got 1 and 1"),
        ({"value_range": (0.0, 1.0)}, "value_range: is what min_scale and max_scale map"),
        ({"min_scale": 0.0, "max_scale": 1.0, "value_range": (1.0, 0.0)},
         "value_range: got 1 and 0"),
        ({"min_scale": 0.0, "max_scale": 1.0, "input_encoding": "one_hot"},
         "one_hot inputs are symbols, which have no scale"),
        ({"scale": 2.0, "input_encoding": "tokens"}, "have no scale"),
        ({"symbols": 3}, "symbols: is for input_encoding=one_hot"),
        ({"test_fraction": 0.5, "val_fraction": 0.5}, "leave nothing to train on"),
    ],
)  # fmt: skip
def test_contradictory_keys(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Hdf5Sequences(path="a.h5", **settings)


@pytest.mark.parametrize(
    ("values", "encoding", "message"),
    [
        (SYMBOLS, "raw", r"int64 of shape \[4, 3\] are symbols; set data.input_encoding=one_hot"),
        (SYMBOLS[..., None], "raw", "are symbols; set data.input_encoding=one_hot"),
        (SYMBOLS.astype(np.uint8), "raw", "are symbols; set data.input_encoding=one_hot"),
        (np.ones((4, 3, 1)), "one_hot", r"float64 of shape .*expects integers \[N, T\]"),
        (np.ones((4, 3, 2), np.uint8), "one_hot", r"expects integers \[N, T\] or \[N, T, 1\]"),
    ],
)
def test_symbols_and_values_are_not_confused(tmp_path: Path, values, encoding, message) -> None:
    with pytest.raises(DataError, match=message):
        source(tmp_path, {"": {"data": values}}, input_encoding=encoding).prepare()
