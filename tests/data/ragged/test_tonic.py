"""Data sets of the package tonic: files in its layout, and errors without package or files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuro.data.ragged.tonic_files import TonicSource
from neuro.errors import ConfigError


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(ConfigError, match=r"data=tonic needs the package tonic \(pip install neur"):
        source(tmp_path).prepare()


def source(folder: Path, **options: Any) -> TonicSource:
    given = {"name": "DVSGesture", "path": str(folder), "root": str(folder / "made")}
    return TonicSource(**{**given, **options})


def gestures(folder: Path) -> None:
    """Write recordings as tonic stores DVS Gesture: files of x, y, polarity and time in ms."""
    for part, count in (("Train", 110), ("Test", 100)):
        (folder / "DVSGesture").mkdir(exist_ok=True)
        (folder / "DVSGesture" / f"ibmGesture{part}.tar.gz").touch()
        for number in range(count):
            user = folder / f"DVSGesture/ibmGesture{part}/user{number // 11:02}_led"
            user.mkdir(parents=True, exist_ok=True)
            label = number % 11
            rows = [[127, label, 1, 40], [3, 2, 0, 7], [3, 2, 0, 7]]
            np.save(user / f"{label}.npy", np.array(rows, np.float64))


class TestFiles:
    @pytest.fixture(autouse=True)
    def _tonic(self) -> None:
        pytest.importorskip("tonic", reason="tonic is an extra")

    def test_are_binned(self, tmp_path: Path) -> None:
        gestures(tmp_path)
        found = source(tmp_path, group=4, dt_ms=10.0, binary=False)
        assert found.input_shape == (2, 32, 32)
        sizes = [len(found.sequences("all", s).labels) for s in ("train", "val", "test")]
        assert sizes == [99, 11, 100]
        assert found.classes("all") == 11
        batch = next(iter(found.loader("all", "test").batches()))
        sample = batch.inputs[5]
        label = int(batch.targets[5])
        # sorted, and counted from the first event
        assert sample.nonzero().tolist() == [[0, 0, 0, 0], [3, 1, label // 4, 31]]
        assert sample[0, 0, 0, 0] == 2

    def test_that_are_missing_are_named_and_not_downloaded(self, tmp_path: Path) -> None:
        for name, archive in (("NMNIST", "train.zip"), ("POKERDVS", "pips_train.tar.gz")):
            with pytest.raises(ConfigError, match=f"lacks the train part of {name}; .*{archive}"):
                source(tmp_path, name=name).prepare()
