"""The example file with a label per step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuro.__main__ import main
from neuro.data import layout
from neuro.data.base import SPLITS
from neuro.data.sequences.hdf5 import Hdf5Sequences
from tests.data.helpers import whole


def test_sequences_of_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "digits.h5"
    assert main(["data", "example", str(path), "--digits", "3", "--steps", "4"]) == 0
    assert "supervised, seq2seq" in capsys.readouterr().out
    data = Hdf5Sequences(path=str(path), root=str(tmp_path))
    spec = data.spec("all")
    assert (spec.inputs.shape, spec.timings, spec.targets.kind) == (
        (64,),
        ((12, 20.0),),
        "class_sequence",
    )
    assert spec.classes == tuple(range(10))
    shown: dict[str, set[bytes]] = {}
    for split in SPLITS:
        inputs, labels = whole(data.loader("all", split))
        assert inputs.min() >= 0 and inputs.max() == 1
        for x in (inputs, labels):  # each digit is shown for its steps
            assert (x.unflatten(1, (3, 4)) == x.unflatten(1, (3, 4))[:, :, :1]).all()
        assert (labels[:, 0] != labels[:, 4]).any()
        shown[split] = {image.numpy().tobytes() for image in inputs[:, ::4].flatten(0, 1)}
    assert not shown["train"] & (shown["val"] | shown["test"])
    assert not shown["val"] & shown["test"]


def test_the_seed_draws_the_digits(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main(["data", "example", str(tmp_path / f"{name}.h5"), "--seed", str(seed)])
    a, b, c = (layout.read(tmp_path / f"{name}.h5")["train"].labels for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("wrong", [["--digits", "0"], ["--steps", "-1"], ["--seed", "-1"]])
def test_impossible_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    assert main(["data", "example", str(tmp_path / "a.h5"), *wrong]) == 2
    assert f"{wrong[0]}: got {wrong[1]}; expected" in capsys.readouterr().err
    assert not (tmp_path / "a.h5").exists()
