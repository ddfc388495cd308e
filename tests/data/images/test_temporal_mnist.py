"""Temporal tasks from IDX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuro.data.images import idx
from neuro.data.images.mnist import IdxImages
from neuro.data.images.tasks import TaskDefinition
from neuro.data.images.temporal import TemporalImages
from neuro.errors import DataError
from tests.data.helpers import whole, write_idx, write_mnist


def mnist(folder: Path, **settings: Any) -> TemporalImages:
    images = IdxImages(str(folder / "idx"))
    return TemporalImages(images=images, root=str(folder / "cache"), **settings)


def test_validation_is_split_off_the_training_part(tmp_path: Path) -> None:
    write_mnist(tmp_path / "idx")
    data = mnist(tmp_path)
    assert [data.loader("all", s).samples for s in ("train", "val", "test")] == [48, 12, 20]
    assert data.spec("all").inputs.shape == (1, 6, 6)
    pixels = idx.read(tmp_path / "idx" / "t10k-images-idx3-ubyte")
    test, labels = whole(data.loader("all", "test"))
    shown = {(x[0, 0].numpy().tobytes(), int(y)) for x, y in zip(test, labels, strict=True)}
    scaled = torch.from_numpy(pixels.copy()).float() * (1 / 255)
    assert shown == {(x.numpy().tobytes(), i % 10) for i, x in enumerate(scaled)}


@pytest.mark.parametrize(("dot", "suffix"), [("-", ".gz"), (".", ""), (".", ".gz")])
def test_all_usual_names_and_gzip(tmp_path: Path, dot: str, suffix: str) -> None:
    write_mnist(tmp_path / "plain" / "idx")
    write_mnist(tmp_path / "other" / "idx", dot=dot, suffix=suffix)
    plain, other = (mnist(tmp_path / name) for name in ("plain", "other"))
    for split in ("train", "val", "test"):
        expected, found = (whole(data.loader("all", split))[0] for data in (plain, other))
        assert torch.equal(expected, found)


def test_different_images_have_different_cache_files(tmp_path: Path) -> None:
    write_mnist(tmp_path / "idx")
    mnist(tmp_path).prepare()
    write_mnist(tmp_path / "idx", train=80)
    assert mnist(tmp_path).loader("all", "train").samples == 64
    assert len(list((tmp_path / "cache").iterdir())) == 6


CHANGES = {
    "tasks": {"slow": TaskDefinition((1, 2), "slow")},
    "coding": "poisson",
    "jitter_px": 1,
    "motion_px_per_s": 30.0,
    "image_size": 12,
    "val_fraction": 0.5,
    "split_seed": 1,
    "batch_size": 5,
    "limit_train": 3,
}


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_has_an_effect(tmp_path: Path, key: str) -> None:
    write_mnist(tmp_path / "idx")

    def first(**settings: Any) -> tuple[Any, ...]:
        loader = mnist(tmp_path, **settings).loader("slow", "train")
        batch = next(loader.batches())
        return loader.samples, batch.frames, batch.inputs.shape, batch.inputs.numpy().tobytes()

    assert first(**{key: CHANGES[key]}) != first()


def test_missing_files_are_listed_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*train-images-idx3-ubyte, .*ubyte\.gz"):
        mnist(tmp_path).prepare()
    write_mnist(tmp_path / "idx")
    (tmp_path / "idx" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"none of t10k-labels-idx1-ubyte, .*t10k-labels\.idx1-"):
        mnist(tmp_path).prepare()


def test_damaged_files(tmp_path: Path) -> None:
    images = write_mnist(tmp_path / "idx") / "train-images-idx3-ubyte"
    content = images.read_bytes()
    for wrong, message in (
        (content[:-10], r"2166 bytes, but shape \[60, 6, 6\] needs 2176; the file is truncated"),
        (content + b"x", "longer than it says"),
        (content[:10], "truncated within its header of 16 bytes"),
        (content[:2], "begins with 0x0000; expected 0x00000803"),
        (b"\x89PNG" + content, "begins with 0x89504e47; expected 0x00000803"),
        (b"\0\0\x08\x01" + content, "begins with 0x00000801; expected 0x00000803"),
        (b"\x1f\x8b" + content, "damaged or truncated gzip"),
    ):
        images.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"train-images-idx3-ubyte: .*{message}"):
            mnist(tmp_path).prepare()


def test_truncated_gzip(tmp_path: Path) -> None:
    images = write_mnist(tmp_path / "idx", suffix=".gz") / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-50])
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        mnist(tmp_path).prepare()


def test_inconsistent_contents(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "idx")
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(59) % 10)
    with pytest.raises(DataError, match="60 images, but 59 labels in train-labels-idx1-ubyte"):
        mnist(tmp_path).prepare()
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(60))
    with pytest.raises(DataError, match="label 59 in sample 59; expected 0 to 9"):
        mnist(tmp_path).prepare()
    write_mnist(folder)
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((20, 7, 6)))
    with pytest.raises(DataError, match=r"images of \(7, 6\); expected \(6, 6\)"):
        mnist(tmp_path).prepare()
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((0, 6, 6)))
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(0))
    with pytest.raises(DataError, match=r"holds nothing \(shape \[0, 6, 6\]\)"):
        mnist(tmp_path).prepare()


def test_layouts_and_numbers_of_other_programs(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "idx")
    for path in list(folder.iterdir()):  # Kaggle's archives unpack to folders named like the files
        inner = tmp_path / path.name
        path.rename(inner)
        path.mkdir()
        inner.rename(path / path.name)
    assert mnist(tmp_path).tasks
    mnist(tmp_path).prepare()
    with pytest.raises(DataError, match=r"is a directory; expected an IDX file"):
        idx.read(folder / "train-images-idx3-ubyte")
    floats = tmp_path / "floats"
    floats.write_bytes(bytes([0, 0, 0x0D, 1, 0, 0, 0, 1]) + bytes(4))
    with pytest.raises(DataError, match=r"IDX of float32; expected uint8"):
        idx.read(floats)
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.csv").touch()
    with pytest.raises(DataError, match=r"It holds train\.csv\. Images in CSV"):
        idx.find(other, "train-images", 3)
    with pytest.raises(DataError, match=r"train\.csv: is a file; expected a folder"):
        idx.find(other / "train.csv", "train-images", 3)
