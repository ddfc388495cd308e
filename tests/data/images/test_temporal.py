"""Digits as temporal tasks: splits, codings, timings, and the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from neuro.data.base import SPLITS
from neuro.data.images.digits import DigitImages
from neuro.data.images.frames import hat_weights, latency_spikes, resized
from neuro.data.images.sets import Images
from neuro.data.images.tasks import TaskDefinition, Timing
from neuro.data.images.temporal import TemporalImages
from neuro.data.sequences.source import SequenceSource
from neuro.errors import ConfigError, DataError
from tests.data.helpers import whole

SHORT = {"fast": Timing(1000, 40), "slow": Timing(50, 400)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by tests that only read it."""
    return tmp_path_factory.mktemp("cache")


def digits(root: Path, **settings: Any) -> TemporalImages:
    usual = {"images": DigitImages(), "root": str(root), "timings": SHORT}
    return TemporalImages(**{**usual, **settings})


def test_default_tasks_are_the_documented_ones(root: Path) -> None:
    data = TemporalImages(images=DigitImages(), root=str(root))
    assert data.tasks == ("fast", "slow", "all")
    fast, slow, every = map(data.spec, data.tasks)
    assert (fast.timings, fast.classes) == (((200, 1.0),), (0, 1, 2, 3, 4))
    assert (slow.timings, slow.classes) == (((20, 20.0),), (5, 6, 7, 8, 9))
    assert (every.timings, every.classes) == (((20, 20.0),), tuple(range(10)))
    assert {spec.outputs for spec in (fast, slow, every)} == {10}
    assert {spec.targets.kind for spec in (fast, slow, every)} == {"class"}
    batch = next(data.loader("fast", "train").batches())
    assert batch.inputs.shape == (64, 1, 1, 8, 8)
    assert batch.sequence().shape == (64, 200, 1, 8, 8)
    assert batch.sequence().stride(1) == 0
    assert (batch.dt_ms, batch.frames) == (1.0, 200)
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.float32, torch.int64)
    assert batch.inputs.min() == 0
    assert batch.inputs.max() == 1


def images_of(data: SequenceSource, task: str, split: Any) -> set[tuple[bytes, int]]:
    sequences, labels = whole(data.loader(task, split))
    return {(x[0].numpy().tobytes(), int(y)) for x, y in zip(sequences, labels, strict=True)}


def test_splits_are_disjoint_complete_stratified_and_the_same_in_every_task(root: Path) -> None:
    data = digits(root)
    original = load_digits()
    expected = {
        ((image / 16).astype(np.float32).tobytes(), int(label))
        for image, label in zip(original.images, original.target, strict=True)
    }
    splits = {split: images_of(data, "all", split) for split in SPLITS}
    assert set.union(*splits.values()) == expected
    assert sum(map(len, splits.values())) == len(expected) == 1797
    assert len(splits["test"]) == round(0.2 * 1797)
    assert len(splits["val"]) == round(0.2 * (1797 - len(splits["test"])))
    frequency = np.bincount(original.target) / 1797
    for split in SPLITS:
        labels = whole(data.loader("all", split))[1].numpy()
        np.testing.assert_allclose(np.bincount(labels) / len(labels), frequency, atol=0.005)
        parts = images_of(data, "fast", split) | images_of(data, "slow", split)
        assert parts == splits[split]


def test_a_held_image_equals_an_image_in_every_frame(root: Path) -> None:
    # stores every frame instead of a held image
    class Explicit(TemporalImages):
        def _content(self, images, timing, rng):
            content = super()._content(images, timing, rng)
            blocks = (np.repeat(block, timing.frames, axis=1) for block in content.blocks)
            return content._replace(blocks=blocks, frames=None)

    explicit = Explicit(images=DigitImages(), root=str(root / "explicit"), timings=SHORT)
    batch = next(explicit.loader("slow", "test").batches())
    assert batch.frames is None
    assert batch.inputs.shape == (64, 20, 1, 8, 8)
    held, labels = whole(digits(root).loader("slow", "test"))
    shown, labels_too = whole(explicit.loader("slow", "test"))
    assert torch.equal(held, shown)
    assert torch.equal(labels, labels_too)


def test_poisson_spikes_have_the_rates_of_their_pixels(root: Path) -> None:
    data = digits(root, coding="poisson", max_rate_hz=40.0, in_memory=False)
    still, _ = whole(digits(root).loader("slow", "train"))
    spikes, _ = whole(data.loader("slow", "train"))
    assert spikes.shape == still.shape
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    chance = still[:, 0] * 40 / 50
    counts = spikes.sum(1)
    total = (20 * chance * (1 - chance)).sum().sqrt()
    assert abs(counts.sum() - 20 * chance.sum()) < 4 * total
    assert (counts[still[:, 0] == 0] == 0).all()
    bright = counts[still[:, 0] == 1]  # binomial of 20 draws with probability 0.8
    assert abs(bright.mean() / 20 - 0.8) < 0.01
    assert abs(bright.var() - 20 * 0.8 * 0.2) < 0.2
    step = (spikes[:, 1:] * spikes[:, :-1]).mean() / (chance**2).mean()
    assert abs(step - 1) < 0.03  # the steps are independent
    fast, _ = whole(data.loader("fast", "test"))
    assert 0.02 < fast.mean() / (40 / 1000) < 0.6  # the rate is per second, not per frame


def test_latency_has_one_spike_a_pixel_brighter_earlier(root: Path) -> None:
    values = np.array([[[1.0, 0.5, 1 / 255, 0.0]]])
    spikes = latency_spikes(values, 11)[0, :, 0]
    assert [np.flatnonzero(spikes[:, i]).tolist() for i in range(4)] == [[0], [5], [10], []]
    data = digits(root, coding="latency")
    still, _ = whole(digits(root).loader("slow", "val"))
    spikes, _ = whole(data.loader("slow", "val"))
    assert torch.equal(spikes.sum(1), (still[:, 0] > 0).float())
    when = spikes.argmax(1)
    expected = torch.round((1 - still[:, 0]) * 19)
    assert torch.equal(when[still[:, 0] > 0].float(), expected[still[:, 0] > 0])


def test_jitter_moves_each_frame_by_whole_pixels(root: Path) -> None:
    settings: dict[str, Any] = {"jitter_px": 2, "image_size": 8}
    sequences, _ = whole(digits(root, **settings).loader("slow", "val"))
    still, _ = whole(digits(root).loader("slow", "val"))
    assert sequences.shape == still.shape
    offsets = set()
    for shown, image in zip(sequences[:10, :, 0], still[:10, 0, 0], strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        places = {
            (dy, dx): padded[2 - dy : 10 - dy, 2 - dx : 10 - dx]
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        }
        for frame in shown:
            matches = [place for place, moved in places.items() if torch.equal(moved, frame)]
            assert matches
            offsets.update(matches)
    assert len(offsets) == 25


def test_motion_has_the_speed_and_a_direction_for_each_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((100, 32, 32), np.uint8)
    pixels[:, 13:18, 14:17] = 16  # stays within the image
    images = Images(pixels, np.arange(100) % 10, 16)
    monkeypatch.setattr(TemporalImages, "_divided", lambda self: dict.fromkeys(SPLITS, images))
    sequences, _ = whole(digits(tmp_path, motion_px_per_s=10.0).loader("slow", "val"))
    frames = sequences[:, :, 0]
    mass = frames.sum((2, 3))
    torch.testing.assert_close(mass, torch.full_like(mass, 15.0), atol=0.1, rtol=0)
    axis = torch.arange(32.0)
    y = (frames.sum(3) * axis).sum(2) / mass
    x = (frames.sum(2) * axis).sum(2) / mass
    path = torch.stack([y, x], 2)
    steps = path.diff(dim=1).norm(dim=2)
    torch.testing.assert_close(steps, torch.full_like(steps, 10 / 50), atol=0.02, rtol=0)
    middle = path.mean(1)  # the original position is reached at half of the duration
    torch.testing.assert_close(middle, torch.full_like(middle, 15.0), atol=0.02, rtol=0)
    moved = path[:, -1] - path[:, 0]
    assert (moved > 1).any(0).all()
    assert (moved < -1).any(0).all()


def test_motion_and_jitter_also_apply_to_poisson_spikes(root: Path) -> None:
    plain, _ = whole(digits(root, coding="poisson").loader("slow", "val"))
    for settings in ({"jitter_px": 2}, {"motion_px_per_s": 20.0}):
        spikes, _ = whole(digits(root, coding="poisson", **settings).loader("slow", "val"))
        assert spikes.shape == plain.shape
        assert set(spikes.unique().tolist()) == {0.0, 1.0}
        border = spikes[..., 0].mean()  # only moving images reach the border
        assert border > 2 * plain[..., 0].mean()


def test_resizing_is_bilinear() -> None:
    pixels = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.uint8)
    images = Images(pixels, np.zeros(3, int), 16)
    for size in (28, 5):
        result = resized(images, size)
        reference = torch.nn.functional.interpolate(
            torch.from_numpy(pixels[:, None] / 16), size=size, mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(result.pixels / result.levels, reference[:, 0], atol=0.002)
    assert resized(images, 8) is images


def test_weights_of_interpolation() -> None:
    np.testing.assert_allclose(
        hat_weights(np.array([0.25, 2.0, -0.5, 9.0]), 3),
        [[0.75, 0.25, 0], [0, 0, 1], [0.5, 0, 0], [0, 0, 0]],
    )


def test_several_timings_are_independent_of_the_class(root: Path) -> None:
    tasks = {"mixed": TaskDefinition((0, 1, 2), ("fast", "slow"))}
    data = digits(root, tasks=tasks)
    assert data.spec("mixed").timings == ((40, 1.0), (20, 20.0))
    assert data.spec("mixed").frames == 40
    alone = digits(root, tasks={"one": TaskDefinition((0, 1, 2), "slow")})
    for split in SPLITS:
        labels: dict[float, list[int]] = {1.0: [], 20.0: []}
        sequence, ids = [], []
        images = set()
        for batch in data.loader("mixed", split, shuffle=True, batch_size=8).batches():
            labels[batch.dt_ms] += batch.targets.tolist()
            sequence.append(batch.dt_ms)
            ids += batch.ids.tolist()
            assert batch.frames == (40 if batch.dt_ms == 1.0 else 20)
            images |= {image.numpy().tobytes() for image in batch.inputs[:, 0]}
        fast, slow = (np.bincount(labels[dt], minlength=3) for dt in (1.0, 20.0))
        assert np.abs(fast - slow).max() <= 2
        assert sorted(ids) == list(range(len(ids)))  # over both timings
        assert np.count_nonzero(np.diff(sequence)) >= 3 or split != "train"  # timings alternate
        assert images == {image for image, _ in images_of(alone, "one", split)}


def test_limits_are_stratified_and_reach_down_to_one_sample(root: Path) -> None:
    data = digits(root, limit_train=20, limit_val=10, limit_test=1)
    for split, count in (("train", 20), ("val", 10), ("test", 1)):
        loader = data.loader("all", split)
        labels = whole(loader)[1]
        assert loader.samples == len(labels) == count
        assert labels.bincount(minlength=10).max() <= max(1, count // 10 + 1)
        assert images_of(data, "all", split) <= images_of(digits(root), "all", split)
    assert digits(root, limit_train=10**6).loader("fast", "train").samples == 577
    mixed = {"mixed": TaskDefinition((0, 1), ("fast", "slow"))}
    assert digits(root, tasks=mixed, limit_train=1).loader("mixed", "train").samples == 1
    assert data.spec("all").classes == tuple(range(10))  # possible classes, not those drawn


def test_generating_again_gives_the_same_sequences(root: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"coding": "poisson", "jitter_px": 1, "motion_px_per_s": 5.0}
    for split in SPLITS:
        first, labels = whole(digits(root, **settings).loader("slow", split))
        second, labels_too = whole(digits(tmp_path, **settings).loader("slow", split))
        assert torch.equal(first, second)
        assert torch.equal(labels, labels_too)


CHANGES: dict[str, Any] = {
    "timings": {"fast": Timing(500, 40), "slow": Timing(100, 400)},
    "tasks": {"slow": TaskDefinition((1, 2), "fast")},
    "coding": "latency",
    "jitter_px": 1,
    "motion_px_per_s": 30.0,
    "image_size": 12,
    "images": DigitImages(test_fraction=0.5),
    "val_fraction": 0.5,
    "split_seed": 1,
    "batch_size": 5,
    "limit_train": 3,
}


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_has_an_effect(root: Path, key: str) -> None:
    def first(**settings: Any) -> tuple[Any, ...]:
        loader = digits(root, **settings).loader("slow", "train")
        batch = next(loader.batches())
        return (loader.samples, batch.dt_ms, batch.frames, batch.inputs.shape,
                batch.inputs.numpy().tobytes(), batch.targets.tolist())  # fmt: skip

    assert first(**{key: CHANGES[key]}) != first()


def test_keys_without_effect_on_stored_data_share_one_file(tmp_path: Path) -> None:
    digits(tmp_path).prepare()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    digits(tmp_path, batch_size=3, limit_train=2, limit_val=1, in_memory=False,
           max_rate_hz=7.0).prepare()  # fmt: skip
    assert sorted(tmp_path.iterdir()) == files
    digits(tmp_path, coding="poisson").prepare()
    digits(tmp_path, coding="poisson", max_rate_hz=7.0).prepare()
    assert len(list(tmp_path.iterdir())) == 9


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURO_DATA", str(tmp_path / "there"))
    TemporalImages(images=DigitImages(), timings=SHORT).prepare()
    assert len(list((tmp_path / "there").iterdir())) == 3
    monkeypatch.delenv("NEURO_DATA")
    assert TemporalImages(images=DigitImages()).root == Path(".data")


def test_later_uses_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits(tmp_path).prepare()
    monkeypatch.setattr(DigitImages, "load", None)
    assert digits(tmp_path).loader("all", "test").samples == 359


@pytest.mark.parametrize("damage", ["truncated", "garbage", "bits"])
def test_a_damaged_cache_file_is_replaced(tmp_path: Path, damage: str) -> None:
    before = whole(digits(tmp_path).loader("slow", "train"))[0]
    (path,) = tmp_path.glob("*-slow-*.h5")
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "garbage":
        path.write_text("no data")
    else:
        middle = len(content) // 3
        path.write_bytes(content[:middle] + bytes(b ^ 255 for b in content[middle:][:4096])
                         + content[middle + 4096 :])  # fmt: skip
    data = digits(tmp_path)
    with pytest.warns(UserWarning, match=rf"made again. .*{path.name}"):
        data.prepare()
    assert torch.equal(whole(data.loader("slow", "train"))[0], before)
    digits(tmp_path).prepare()  # the replaced file gives no warning


@pytest.mark.slow
def test_two_processes_may_write_the_cache_at_the_same_time(tmp_path: Path) -> None:
    code = (
        "import sys; from neuro.data.images.digits import DigitImages\n"
        "from neuro.data.images.temporal import TemporalImages\n"
        "data = TemporalImages(images=DigitImages(), root=sys.argv[1], coding='poisson')\n"
        "data.prepare(); print(sum(float(b.inputs.sum()) for t in data.tasks"
        " for b in data.loader(t, 'train').batches()))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert len(list(tmp_path.iterdir())) == 3  # no temporary file is left


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": {"fast": None}}, "tasks: there is none"),
        ({"tasks": {"a": TaskDefinition((1, 10), "fast")}}, r"tasks.a.classes: got \[1, 10\]"),
        ({"tasks": {"a": TaskDefinition((1, 1), "fast")}}, "expected different labels"),
        ({"tasks": {"a": TaskDefinition((1,), "fats")}}, "no timing 'fats'.*mean 'fast'"),
        ({"tasks": {"a": TaskDefinition((1,), ("fast", "fast"))}}, "names one twice"),
        ({"coding": "poisson", "max_rate_hz": 60.0}, "got 60, above the frame rate of 50 Hz"),
        ({"coding": "latency", "jitter_px": 1}, "latency needs a still image"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits(tmp_path, **settings)


def test_a_timing_is_a_whole_number_of_frames() -> None:
    assert Timing(30, 100).frames == 3
    assert Timing(1000 / 3, 9).frames == 3
    with pytest.raises(ValueError, match=r"250 ms at 30 Hz are 7.5 frames"):
        Timing(30, 250)
    with pytest.raises(ValueError, match=r"0.1 frames"):
        Timing(1, 100)


def test_construction_does_not_access_the_disk(tmp_path: Path) -> None:
    digits(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_too_few_samples_for_the_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images(np.zeros((2, 8, 8), np.uint8), np.array([7, 8]), 16)
    monkeypatch.setattr(TemporalImages, "_divided", lambda self: dict.fromkeys(SPLITS, images))
    with pytest.raises(DataError, match=r"no train samples of classes .* with timing 'fast'"):
        digits(tmp_path).prepare()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_size": 100_000}, r"data\.image_size: \d+ images of 100000 x 100000 pixels: "),
        (
            {
                "coding": "poisson",
                "timings": {"fast": Timing(1000.0, 1e12), "slow": Timing(50, 400)},
            },
            r"data\.timings: 64 sequences of 1000000000000 frames: .* GiB",
        ),
    ],
)
def test_sizes_beyond_memory_are_refused(tmp_path, keys, message) -> None:
    source = TemporalImages(images=DigitImages(), root=str(tmp_path), **keys)
    with pytest.raises(ConfigError, match=message):
        source.prepare()
