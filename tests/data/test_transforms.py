"""Augmentation: effects of transforms, which depend on (seed, epoch, sample) only."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from neuro.config.build import build
from neuro.data.augmentation import Augmentation
from neuro.data.base import DataSource, InputSpec, TargetSpec, TaskSpec
from neuro.data.sequences.hdf5 import Hdf5Sequences
from neuro.data.store import NO_LABEL
from neuro.data.transforms import (
    Erase,
    Flip,
    Noise,
    Roll,
    Rotate,
    Shift,
    TimeMask,
    TimeShift,
    Transform,
)
from neuro.errors import ConfigError
from tests.components import check
from tests.data.helpers import write_hdf5
from tests.e2e.test_bad_input import hdf5

TARGET = "neuro.data.transforms"


def often(transform: Transform, sample, count: int = 200, dt_ms: float = 10.0):
    """`count` random changes of one sample `[T, ...]`."""
    samples = np.repeat(np.asarray(sample, np.float32)[None], count, 0)
    augmentation = Augmentation({"t": transform})
    return augmentation(samples, None, "class", np.arange(count), (0, 0, 0), dt_ms)[0]


def drawn(transform: Transform, count: int = 200, frames: int = 5, dt_ms: float = 10.0):
    """Random changes of a sample of ones `[T, 1, 6, 6]`."""
    return often(transform, np.ones((frames, 1, 6, 6)), count, dt_ms)


def test_shift():
    image = np.arange(1, 37, dtype=np.float32).reshape(1, 1, 1, 6, 6)
    changed = often(Shift(2), image[0], 300)
    seen = set()
    for sample in changed[:, 0, 0]:
        offsets = [
            (d, r)
            for d in range(-2, 3)
            for r in range(-2, 3)
            if np.array_equal(sample, moved(image[0, 0, 0], d, r))
        ]
        assert len(offsets) == 1
        seen.update(offsets)
    assert len(seen) == 25


def moved(image, down, right):
    padded = np.pad(image, 2)
    return padded[2 - down : 8 - down, 2 - right : 8 - right]


def test_flip():
    original = np.arange(36, dtype=np.float32).reshape(6, 6)
    for options, allowed in (
        ({}, [original, original[:, ::-1]]),
        ({"horizontal": False, "vertical": True}, [original, original[::-1]]),
        ({"chance": 1.0}, [original[:, ::-1]]),
        ({"vertical": True, "chance": 1.0}, [original[::-1, ::-1]]),
    ):
        changed = often(Flip(**options), original[None, None])
        found = {sample.tobytes() for sample in changed[:, 0, 0]}
        assert found == {np.ascontiguousarray(a).tobytes() for a in allowed}
    with pytest.raises(ValueError, match="turn at least one of them on"):
        Flip(horizontal=False)


def test_noise():
    for each_frame in (False, True):
        noise = drawn(Noise(0.3, each_frame)) - 1
        assert noise.std() == pytest.approx(0.3, rel=0.05)
        assert abs(noise.mean()) < 0.02
        assert np.array_equal(noise[:, 0], noise[:, 1]) is not each_frame


def test_erase():
    changed = drawn(Erase(chance=0.25, largest=0.5, value=-3.0), 400)
    erased = changed == -3
    assert np.array_equal(changed[~erased], np.ones((~erased).sum(), np.float32))
    hit = erased.any((1, 2, 3, 4))
    assert hit.mean() == pytest.approx(0.25, abs=0.07)
    rows, columns = erased.any(4)[hit, 0, 0], erased.any(3)[hit, 0, 0]
    for sides in (rows.sum(1), columns.sum(1)):
        assert set(sides) == {1, 2, 3}
    assert np.array_equal(erased[hit, 0, 0], rows[:, :, None] & columns[:, None])
    assert (erased == erased[:, :1]).all()  # the same in every frame


def test_time_shift():
    changed = often(TimeShift(25.0), np.arange(1, 6).reshape(5, 1))
    found = {tuple(sample[:, 0]) for sample in changed}
    assert found == {
        (1, 2, 3, 4, 5), (0, 1, 2, 3, 4), (0, 0, 1, 2, 3), (2, 3, 4, 5, 0), (3, 4, 5, 0, 0)
    }  # fmt: skip


def test_time_mask():
    masked = drawn(TimeMask(30.0, 0.5), 400) == 0
    assert (masked == masked[:, :, :, :1, :1]).all()
    lengths = masked[:, :, 0, 0, 0].sum(1)
    assert set(lengths) == {0, 1, 2, 3}
    assert (lengths > 0).mean() == pytest.approx(0.5, abs=0.08)
    runs = np.diff(np.pad(masked[:, :, 0, 0, 0].astype(int), ((0, 0), (1, 1))), axis=1) == 1
    assert runs.sum(1).max() == 1  # one interval


def test_roll():
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = {sample.tobytes() for sample in often(Roll(), image[None, None], 400)[:, 0, 0]}
    expected = {np.roll(image, by, (0, 1)).tobytes() for by in np.ndindex(3, 4)}
    assert found == expected


@pytest.mark.parametrize("degrees", [90, 180])
def test_rotate(degrees):
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    found = {sample.tobytes() for sample in often(Rotate(degrees), image[None, None])[:, 0, 0]}
    quarters = range(0, 4, degrees // 90)
    assert found == {np.ascontiguousarray(np.rot90(image, q)).tobytes() for q in quarters}


# -- targets that follow their inputs -------------------------------------------------------------


@pytest.mark.parametrize("transform", [Shift(2), Roll(), Flip(vertical=True), Rotate()])
@pytest.mark.parametrize("kind", ["image", "class_map"])
def test_images_follow_their_frames(transform, kind):
    masks = np.arange(1, 20 * 36 + 1, dtype=np.float32).reshape(20, 1, 1, 6, 6)
    targets = masks[:, 0].copy() if kind == "image" else masks[:, 0, 0].astype(np.int64)
    augmentation = Augmentation({"t": transform, "n": Noise(0.01)})
    inputs, changed = augmentation(masks.copy(), targets.copy(), kind, np.arange(20), (1,), None)
    assert changed.dtype == targets.dtype
    assert (changed != targets).any(tuple(range(1, targets.ndim))).mean() > 0.5
    expected = np.where(changed == NO_LABEL, 0, changed).reshape(masks.shape)
    np.testing.assert_allclose(inputs, expected, atol=0.1)


def test_classes_of_steps_move_in_time():
    frames = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1).repeat(50, 0)
    labels = np.arange(1, 6).reshape(1, 5).repeat(50, 0)
    augmentation = Augmentation({"t": TimeShift(25.0)})
    inputs, moved_labels = augmentation(
        frames.copy(), labels.copy(), "class_sequence", np.arange(50), (0,), 10.0
    )
    assert np.array_equal(np.where(moved_labels == NO_LABEL, 0, moved_labels), inputs[..., 0])
    assert (moved_labels == NO_LABEL).any()
    values = frames.repeat(2, 2)
    inputs, moved_values = augmentation(
        frames.copy(), values.copy(), "value_sequence", np.arange(50), (0,), 10.0
    )
    assert np.array_equal(moved_values, inputs.repeat(2, 2))


@pytest.mark.parametrize("mask_labels", [False, True])
def test_masked_steps_have_no_class_with_mask_labels(mask_labels):
    frames = np.ones((50, 5, 1), np.float32)
    augmentation = Augmentation({"t": TimeMask(30.0, 1.0, mask_labels)})
    inputs, labels = augmentation(
        frames, np.ones((50, 5), np.int64), "class_sequence", np.arange(50), (0,), 10.0
    )
    assert np.array_equal(labels == NO_LABEL, (inputs[..., 0] == 0) & mask_labels)


def test_other_targets_are_not_changed():
    images = np.random.default_rng(0).random((8, 1, 1, 6, 6)).astype(np.float32)
    for kind, targets in (("class", np.arange(8)), ("image", images[:, 0].copy())):
        changed = Augmentation({"e": Erase(chance=1.0), "n": Noise()})(
            images.copy(), targets.copy(), kind, np.arange(8), (0,), 1.0
        )
        assert np.array_equal(changed[1], targets)
    for kind, targets in (("class", np.arange(8)), ("value", np.ones((8, 6)))):
        for transform in (Shift(), Flip(), Rotate(), Roll(), TimeShift(), TimeMask()):
            _, after = Augmentation({"t": transform})(
                images.copy(), targets.copy(), kind, np.arange(8), (0,), 1.0
            )
            assert np.array_equal(after, targets)


# -- in a source ----------------------------------------------------------------------------------

SHIFT = {"_target_": f"{TARGET}.Shift", "pixels": 1}
NOISE = {"_target_": f"{TARGET}.Noise", "std": 0.1}


def source(path, transforms, **options) -> Hdf5Sequences:
    node = {
        "_target_": "neuro.data.sequences.hdf5.Hdf5Sequences",
        "path": str(path),
        "batch_size": 4,
        "transforms": transforms,
        **options,
    }
    return build(node, DataSource, "data")


def by_sample(made, epoch=0, seed=0, **options):
    """The training inputs of an epoch by the position of their sample in the plain data."""
    loader = made.loader("all", "train", shuffle=True, seed=seed, **options)
    order = loader._plan(epoch)
    positions = np.concatenate(
        [np.array_split(p, loader._world_size)[loader._rank] for _, p in order]
    )
    inputs = torch.cat([batch.inputs for batch in loader.batches(epoch)])
    return {int(p): inputs[i] for i, p in enumerate(positions)}


@pytest.fixture
def path(tmp_path):
    return hdf5(tmp_path / "own.h5")


def test_augmentation_depends_on_seed_epoch_and_sample_only(path):
    transforms = {"shift": SHIFT, "noise": NOISE}
    reference = by_sample(source(path, transforms))
    assert len(reference) == 12
    for options in ({"batch_size": 5}, {"in_memory": False}):
        again = by_sample(source(path, transforms, **options))
        assert all(torch.equal(again[k], value) for k, value in reference.items())
    parts = [by_sample(source(path, transforms), rank=r, world_size=2) for r in range(2)]
    together = {**parts[0], **parts[1]}
    assert all(torch.equal(together[k], value) for k, value in reference.items())
    for options in ({"epoch": 1}, {"seed": 1}):
        other = by_sample(source(path, transforms), **options)
        assert not any(torch.equal(other[k], value) for k, value in reference.items())
    assert not torch.equal(reference[0] - reference[1], by_sample(source(path, None))[0])
    loader = source(path, transforms).loader("all", "train", shuffle=True)
    whole, rest = list(loader.batches(3)), list(loader.batches(3, start=1))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[1:], rest, strict=True))


def test_transforms_have_separate_random_streams(path):
    """Later transforms do not change the random draws of earlier ones."""
    one = by_sample(source(path, {"shift": SHIFT}))
    two = by_sample(source(path, {"shift": SHIFT, "flip": {"_target_": f"{TARGET}.Flip"}}))
    same = [torch.equal(one[k], two[k]) or torch.equal(one[k], two[k].flip(-1)) for k in one]
    assert all(same)


def test_only_training_is_augmented(path):
    plain, noisy = source(path, None), source(path, {"noise": NOISE, "gone": None})
    for split in ("val", "test", "train"):
        for a, b in zip(
            plain.loader("all", split).batches(), noisy.loader("all", split).batches(), strict=True
        ):
            assert torch.equal(a.inputs, b.inputs)
    a, b = (next(s.loader("all", "train", shuffle=True).batches()) for s in (plain, noisy))
    assert not torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
    assert b.inputs.dtype == torch.float32


def held(transforms):
    node = {
        "_target_": "neuro.data.images.temporal.TemporalImages",
        "images": {"_target_": "neuro.data.images.digits.DigitImages"},
        "transforms": transforms,
        "limit_train": 20,
        "timings": {"slow": {"rate_hz": 50.0, "duration_ms": 100.0}},
        "tasks": {"slow": {"classes": [0, 1], "timing": "slow"}},
    }
    return next(build(node, DataSource, "data").loader("slow", "train", shuffle=True).batches())


def test_held_frames(tmp_path, monkeypatch):
    """Frames stay held unless a transform acts along time."""
    monkeypatch.setenv("NEURO_DATA", str(tmp_path))
    still, mask = held({"noise": NOISE}), {"_target_": f"{TARGET}.TimeMask", "chance": 1.0}
    assert (still.frames, still.inputs.shape[1]) == (5, 1)
    moving = held({"noise": NOISE, "mask": mask})
    assert (moving.frames, moving.inputs.shape[1]) == (None, 5)
    blank = (moving.inputs == 0).all(-1).all(-1)[..., 0]
    assert blank.any(1).all()
    expected = torch.where(blank[..., None, None, None], 0.0, still.sequence())
    assert torch.equal(moving.sequence(), expected)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"shift": {**SHIFT, "pixel": 1}}, "data.transforms.shift.pixel: unknown key. Allowed:"),
        ({"shift": {**SHIFT, "pixels": 0}}, "data.transforms.shift.pixels: got 0"),
        ({"s": {"_target_": f"{TARGET}.Shif"}}, "Did you mean 'Shift'?"),
        ({"s": {"_target_": "neuro.data.sequences.hdf5.Hdf5Sequences"}}, "not a subclass of"),
        ({"s": 3}, "data.transforms.s: expected a mapping with a `_target_`"),
        (["shift"], "data.transforms: got ['shift']; expected a mapping of names to components"),
    ],
)
def test_bad_transforms_are_refused(transforms, message, path):
    node = {"_target_": "neuro.data.sequences.hdf5.Hdf5Sequences", "transforms": transforms}
    (problem,) = check(node, DataSource, "data")
    assert message in problem
    with pytest.raises(ConfigError):
        source(path, transforms)


FRAMES, VECTORS = InputSpec((1, 6, 6)), InputSpec((7,))
TOKENS = InputSpec((), "int", vocabulary=9)


@pytest.mark.parametrize(
    ("transform", "inputs", "targets", "dt_ms", "problem"),
    [
        (Shift(), VECTORS, TargetSpec("class", classes=2), 1.0, "needs frames of two dimensions"),
        (Flip(), FRAMES, TargetSpec("image", (1, 3, 3)), None,
         r"would move frames of \[6, 6\], but cannot move targets of shape \[1, 3, 3\] with them"),
        (Rotate(), InputSpec((4, 6)), TargetSpec("class", classes=2), 1.0, "square frames.*4 x 6"),
        (TimeShift(), VECTORS, TargetSpec("token", classes=7), 1.0,
         r"would move the inputs, but not the targets \(token\)"),
        (TimeShift(), FRAMES, TargetSpec("image", (6, 6)), 1.0, r"not the targets \(image\)"),
        (TimeMask(), VECTORS, TargetSpec("class", classes=2), None, "have no unit of time"),
        (TimeMask(), VECTORS, TargetSpec("token", classes=7), 1.0, "symbols that are targets too"),
        (TimeMask(mask_labels=True), VECTORS, TargetSpec("class", classes=2), 1.0,
         "mask_labels=true for a class per step; targets are 'class'"),
        (Noise(), TOKENS, TargetSpec("class", classes=2), 1.0, "the task's inputs are integers"),
    ],
)  # fmt: skip
def test_tasks_that_do_not_fit_a_transform(transform, inputs, targets, dt_ms, problem):
    spec = TaskSpec("all", inputs, targets, ((4, dt_ms),))
    (found,) = Augmentation({"t": transform}).misfits(spec)
    assert found.startswith(f"data.transforms.t: {type(transform).__name__} ")
    assert found.endswith("(task 'all').")
    assert re.search(problem, found)


@pytest.mark.parametrize(
    ("transform", "inputs", "targets"),
    [
        (Shift(), FRAMES, TargetSpec("image", (3, 6, 6))),
        (Roll(), FRAMES, TargetSpec("class_map", (6, 6), classes=2)),
        (Rotate(180), InputSpec((4, 6)), TargetSpec("image", (4, 6))),
        (TimeShift(), VECTORS, TargetSpec("class_sequence", classes=2)),
        (TimeMask(mask_labels=True), VECTORS, TargetSpec("class_sequence", classes=2)),
        (Erase(), FRAMES, TargetSpec("image", (1, 3, 3))),
    ],
)
def test_tasks_that_fit_a_transform(transform, inputs, targets):
    spec = TaskSpec("all", inputs, targets, ((4, 1.0),))
    assert Augmentation({"t": transform}).misfits(spec) == []


def test_images_of_a_source_are_moved_with_their_masks(tmp_path):
    masks = np.random.default_rng(0).random((12, 1, 1, 6, 6)).astype(np.float32)
    path = write_hdf5(tmp_path / "a.h5", {"": {"data": masks, "labels": masks[:, 0] / 2}})
    roll = {"_target_": f"{TARGET}.Roll"}
    found = source(path, {"roll": roll})
    for batch in found.loader("all", "train", shuffle=True).batches():
        assert torch.equal(batch.inputs[:, 0] / 2, batch.targets)
        assert not torch.equal(batch.inputs, torch.from_numpy(masks[batch.ids]))


def test_transforms_that_do_not_fit_the_data(path):
    import h5py

    with h5py.File(path, "r+") as file:
        for split in ("train", "val", "test"):
            flattened = file[split]["data"][:].reshape(12, 4, 16)
            del file[split]["data"]
            file[split]["data"] = flattened
    with pytest.raises(ConfigError, match="data.transforms.shift: Shift needs frames of two"):
        source(path, {"shift": SHIFT}).prepare()
