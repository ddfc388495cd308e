"""Simulated masks and images: families, splits, files, and invalid settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from neuro.data.base import SPLITS
from neuro.data.simulated.lithography import Lithography
from neuro.data.simulated.optics import Optics, Source
from neuro.data.simulated.patterns import FAMILIES, Rules, draw
from neuro.data.transforms import Flip, Roll, Rotate, Shift
from neuro.errors import ConfigError
from neuro.ops.optics import socs_image

RULES = Rules(narrow=5, wide=12, space=5)
SMALL: dict[str, Any] = {"train": 6, "val": 2, "test": 3, "size": 48}


def source(root: Path, **keys: Any) -> Lithography:
    return Lithography(**{"optics": Optics(), "root": str(root), **SMALL, **keys})


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_keep_the_design_rules(family: str) -> None:
    """No bright or dark region is narrower than its rule, also across the edges of the tile."""
    masks = [draw(family, 64, RULES, np.random.default_rng(seed)) for seed in range(40)]
    assert len({mask.tobytes() for mask in masks}) > 35
    for mask in masks:
        assert mask.any() and not mask.all()
        assert set(np.unique(mask)) <= {0, 1}
        for lines in (mask, mask.T):
            for line in lines[lines.any(1) & ~lines.all(1)]:
                line = np.roll(line, -int(np.flatnonzero(np.diff(line, prepend=line[-1]))[0]))
                ends = [*np.flatnonzero(np.diff(line)) + 1, len(line)]
                runs = np.diff([0, *ends])
                assert runs.min() >= min(RULES.narrow, RULES.space)


def test_families_have_the_shapes_of_their_names() -> None:
    def boxes(family: str) -> np.ndarray:
        return np.stack([draw(family, 64, RULES, np.random.default_rng(s)) for s in range(30)])

    across = np.abs(np.diff(boxes("vertical_lines").astype(int), axis=2)).sum()
    along = np.abs(np.diff(boxes("vertical_lines").astype(int), axis=1)).sum()
    assert across > 3 * along
    turned = boxes("horizontal_lines").astype(int)
    assert np.abs(np.diff(turned, axis=1)).sum() > 3 * np.abs(np.diff(turned, axis=2)).sum()
    assert boxes("contacts").mean() < boxes("rectangles").mean()


def test_images_are_those_of_the_masks(tmp_path: Path) -> None:
    data = source(tmp_path, optics=Optics(dose=1.2, defocus_nm=60.0), kernels=None)
    (batch,) = data.loader("all", "test").batches()
    assert batch.inputs.shape == (15, 1, 1, 48, 48) and batch.targets.shape == (15, 1, 48, 48)
    kernels = data.optics.matrix(data.extent_nm)
    expected = socs_image(batch.inputs[:, 0].double(), kernels, 1.2)
    torch.testing.assert_close(batch.targets.double(), expected, atol=3e-6, rtol=0)
    spec = data.spec("seen")
    assert (spec.targets.kind, spec.targets.shape, spec.timings) == (
        "image", (1, 48, 48), ((1, None),),
    )  # fmt: skip


def test_tasks_select_families(tmp_path: Path) -> None:
    data = source(tmp_path)
    samples = {task: data.loader(task, "train").samples for task in data.tasks}
    assert samples == {**dict.fromkeys(FAMILIES, 6), "seen": 24, "unseen": 6, "all": 30}
    (unseen,) = data.loader("unseen", "val").batches()
    (family,) = data.loader("l_shapes", "val").batches()
    assert torch.equal(unseen.inputs, family.inputs)
    (seen,) = data.loader("seen", "val").batches()
    assert not any((mask == unseen.inputs).flatten(1).all(1).any() for mask in seen.inputs)
    (everything,) = data.loader("all", "val").batches()
    assert len(everything.inputs) == len(seen.inputs) + len(unseen.inputs)
    other = source(tmp_path, held_out=None)
    assert "unseen" not in other.tasks and other.loader("seen", "train").samples == 30
    assert len(list(tmp_path.iterdir())) == 1  # held-out families do not change the file


def test_splits_and_seeds_differ(tmp_path: Path) -> None:
    data = source(tmp_path)
    masks = [
        mask.numpy().tobytes()
        for split in SPLITS
        for batch in data.loader("all", split).batches()
        for mask in batch.inputs
    ]
    assert len(set(masks)) > 0.9 * len(masks)
    other = source(tmp_path, split_seed=1)
    first, second = (next(iter(d.loader("all", "test").batches())) for d in (data, other))
    assert not torch.equal(first.inputs, second.inputs)


def test_a_file_is_written_once_with_its_optics_and_samples(tmp_path: Path) -> None:
    data = source(tmp_path, families=("contacts", "rectangles"), held_out=None)
    data.prepare()
    (path,) = tmp_path.iterdir()
    changed = path.stat().st_mtime_ns
    source(tmp_path, families=("contacts", "rectangles"), held_out=None).prepare()
    assert path.stat().st_mtime_ns == changed
    with h5py.File(path) as file:
        _, _, settings = file.attrs["generator"].partition("lithography ")
    assert json.loads(settings)["optics"] == data.optics.plain()
    more = source(tmp_path, families=("rectangles",), held_out=None, test=5)
    (few,) = data.loader("rectangles", "test").batches()
    (many,) = more.loader("rectangles", "test").batches()
    assert torch.equal(many.inputs[:3], few.inputs)


@pytest.mark.parametrize(
    "keys",
    [
        {"optics": Optics(na=0.6)},
        {"optics": Optics(wavelength_nm=248.0)},
        {"optics": Optics(defocus_nm=100.0)},
        {"optics": Optics(dose=0.9)},
        {"optics": Optics(aberrations={"Z9": 0.05})},
        {"optics": Optics(source=Source("circular", 0.6))},
        {"optics": Optics(source=Source("dipole", opening_deg=40.0))},
        {"optics": Optics(source=Source("dipole", rotation_deg=90.0))},
        {"optics": Optics(source=Source(samples=9))},
        {"optics": Optics(index=1.44, defocus_nm=100.0)},
        {"pixel_nm": 20.0},
        {"kernels": 3},
        {"width_nm": (150.0, 200.0)},
        {"space_nm": 200.0},
    ],
)
def test_every_key_changes_the_images(keys: dict[str, Any], tmp_path: Path) -> None:
    base, changed = source(tmp_path), source(tmp_path, **keys)
    images = [next(iter(d.loader("all", "test").batches())).targets for d in (base, changed)]
    assert not torch.allclose(*images, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pixel_nm": 80.0, "size": 64}, r"data\.pixel_nm: got 80 nm; .* at most 68\.93 nm"),
        ({"width_nm": (300.0, 125.0)}, "expected the smaller one first"),
        ({"width_nm": (125.0, 600.0)}, "do not fit a tile"),
        ({"families": ("contacts",), "held_out": "l_shapes"}, "expected one of families, contacts"),
        ({"families": ("contacts",), "held_out": "contacts"}, "nothing is left to train on"),
    ],
)
def test_invalid_options(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        source(tmp_path, **keys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optics(na=1.5), "below the refractive index of the medium, which is 1.44"),
        (lambda: Optics(na=1.35, index=1.2), "which is 1.2"),
        (lambda: Optics(aberrations={"spherical": 0.1}), "expected Z1 to Z99"),
        (lambda: Source(sigma_inner=0.8), "expected less than sigma_outer"),
        (lambda: Source("quasar", opening_deg=120.0), "span at most 90"),
        (lambda: Source(sigma_inner=0.799, samples=5), "no point on a grid of 5 x 5"),
    ],
)
def test_invalid_optics(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_immersion() -> None:
    optics = Optics(na=1.35)
    assert (optics.medium_index, Optics().medium_index) == (1.44, 1.0)
    assert optics.pixel_limit_nm == pytest.approx(193 / 5.4)
    assert optics.frequencies(64 * 8.0) == 13


def test_circular_shifts_are_exact_and_keep_mask_and_image_aligned(tmp_path: Path) -> None:
    plain = source(tmp_path, kernels=None)
    data = source(tmp_path, kernels=None, transforms={"roll": Roll()})
    moved = next(iter(data.loader("all", "train", shuffle=True).batches()))
    kernels = plain.optics.matrix(plain.extent_nm)
    expected = socs_image(moved.inputs[:, 0].double(), kernels)
    torch.testing.assert_close(moved.targets.double(), expected, atol=3e-6, rtol=0)
    rest = next(iter(plain.loader("all", "train", shuffle=True).batches()))
    assert not torch.equal(moved.inputs, rest.inputs)


@pytest.mark.parametrize(
    ("optics", "allowed"),
    [
        (Optics(), ("quarter turn", "half turn", "horizontal flip", "vertical flip")),
        (Optics(aberrations={"Z9": 0.1}, defocus_nm=50.0), ("quarter turn", "horizontal flip")),
        (Optics(source=Source("dipole", opening_deg=40.0)), ("half turn", "vertical flip")),
        (Optics(source=Source("dipole", opening_deg=40.0, rotation_deg=30.0)), ("half turn",)),
        (
            Optics(source=Source("quasar", opening_deg=30.0, rotation_deg=20.0)),
            ("quarter turn", "half turn"),
        ),
        (Optics(aberrations={"Z5": 0.1}), ("half turn", "horizontal flip")),
        (Optics(aberrations={"Z7": 0.1}), ("vertical flip",)),
        (Optics(aberrations={"Z8": 0.1}), ("horizontal flip",)),
    ],
)
def test_only_symmetries_of_the_optics_are_allowed(
    optics: Optics, allowed: tuple[str, ...], tmp_path: Path
) -> None:
    """Allowed transforms commute with imaging; refused ones do not."""
    transforms: dict[str, tuple[Any, Any]] = {
        "quarter turn": (Rotate(90), lambda x: x.rot90(1, (-2, -1))),
        "half turn": (Rotate(180), lambda x: x.rot90(2, (-2, -1))),
        "horizontal flip": (Flip(True, False), lambda x: x.flip(-1)),
        "vertical flip": (Flip(False, True), lambda x: x.flip(-2)),
    }
    mask = torch.from_numpy(draw("l_shapes", 48, RULES, np.random.default_rng(3))).double()
    rows = optics.matrix(48 * 25.0)
    for name, (transform, change) in transforms.items():
        same = torch.allclose(
            socs_image(change(mask), rows), change(socs_image(mask, rows)), atol=1e-9
        )
        assert optics.has_symmetry(name) == same, name  # type: ignore[arg-type]
        assert same or name not in allowed
        if not same:
            data = source(tmp_path, optics=optics, transforms={"mine": transform})
            with pytest.raises(ConfigError, match=rf"data\.transforms\.mine: a {name} changes"):
                data.prepare()


def test_shifts_that_fill_with_dark_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.transforms\.mine: fills the edge with dark"):
        source(tmp_path, transforms={"mine": Shift(2)}).prepare()


def test_noise_is_in_the_training_images_only(tmp_path: Path) -> None:
    clean, noisy = source(tmp_path), source(tmp_path, noise=0.05)
    for split in SPLITS:
        one, other = (next(iter(d.loader("all", split).batches())) for d in (clean, noisy))
        assert torch.equal(one.inputs, other.inputs)
        expected = 0.05 if split == "train" else 0.0
        assert (other.targets - one.targets).std().item() == pytest.approx(expected, rel=0.1)


def test_more_masks_than_memory_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.train: got 4611686018427387904, a number of"):
        source(tmp_path, train=2**62).prepare()
