"""Inverse lithography: measures, optimisation, and the effect of each setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from neuro.config.opc import OPCSettings
from neuro.data.simulated.optics import Optics
from neuro.learning.inverse_lithography import MaskOptimiser, ProcessWindow, measure, vertices

CPU = torch.device("cpu")
PIXEL_NM = 25.0
SIZE = 32


def window(dose: float = 0.02, defocus_nm: tuple[float, ...] = (0.0, 100.0)) -> ProcessWindow:
    return ProcessWindow(
        Optics(), SIZE * PIXEL_NM, 12, dose=dose, defocus_nm=defocus_nm, device=CPU
    )


def targets() -> Tensor:
    """A contact, and an L of two bars."""
    masks = torch.zeros(2, SIZE, SIZE)
    masks[0, 12:18, 12:18] = 1
    masks[1, 6:24, 6:12] = 1
    masks[1, 18:24, 6:24] = 1
    return masks


def optimised(**settings: Any) -> Tensor:
    optimiser = MaskOptimiser(targets(), window(), OPCSettings(**{"steps": 25, **settings}))
    for _ in range(optimiser.settings.steps):
        optimiser.step()
    return optimiser.masks()


def test_vertices_of_polygons() -> None:
    masks = torch.zeros(4, 8, 8)
    masks[0, 2:5, 2:5] = 1  # a square
    masks[1, :, 2:4] = 1  # a line that is periodic, without ends
    masks[2, 1:6, 1:3] = masks[2, 4:6, 1:6] = 1  # an L
    masks[3, 1:3, 1:3] = masks[3, 3:5, 3:5] = 1  # two squares that touch
    assert vertices(masks).tolist() == [4, 0, 6, 8]


def test_a_window_has_the_nominal_image_and_those_of_all_corners() -> None:
    images = window(dose=0.1, defocus_nm=(0.0, 150.0)).images(targets())
    assert images.shape == (1 + 2 * 2, 2, SIZE, SIZE)
    nominal, low, high, *defocused = images
    torch.testing.assert_close(low, 0.9 * nominal)
    torch.testing.assert_close(high, 1.1 * nominal)
    assert (defocused[0] - low).abs().max() > 0.01
    alone = window(dose=0.0, defocus_nm=(150.0,)).images(targets())
    torch.testing.assert_close(alone[0], nominal)
    torch.testing.assert_close(alone[1], (defocused[0] + defocused[1]) / 2)


class Displaced(ProcessWindow):
    """Print masks unchanged, and shifted by a pixel at the only process corner."""

    def __init__(self, nominal: int = 0) -> None:
        self.nominal = nominal

    def images(self, masks: Tensor) -> Tensor:
        here = 0.5 * masks.roll(self.nominal, -1)
        return torch.stack([here, here.roll(1, -1)])


def test_measures_of_known_prints() -> None:
    square = targets()[:1]
    found = measure(square, square, Displaced(), threshold=0.25, pixel_nm=10.0)
    assert found._asdict() == {
        "l2_error_nm2": 0.0, "pv_band_nm2": 2 * 6 * 100.0, "epe_nm": 0.0, "vertices": 4.0,
    }  # fmt: skip
    moved = measure(square, square, Displaced(2), threshold=0.25, pixel_nm=10.0)
    assert moved.l2_error_nm2 == 2 * 2 * 6 * 100
    # all 12 vertical edges are 20 nm away; of 12 horizontal ones, 4 have none in their column
    assert moved.epe_nm == pytest.approx((12 * 20 + 4 * 200) / 24)


def test_masks_print_better_than_their_targets() -> None:
    masks, process = optimised(), window()
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    before, after = (
        measure(m, targets(), process, threshold=0.225, pixel_nm=PIXEL_NM)
        for m in (targets(), masks)
    )
    assert after.l2_error_nm2 < 0.7 * before.l2_error_nm2
    assert after.epe_nm < before.epe_nm
    wrong = (process.images(masks)[0] > 0.225) != (targets() > 0.5)
    assert after.l2_error_nm2 == pytest.approx(float(wrong.sum()) / 2 * PIXEL_NM**2)


def test_smoothness_gives_simpler_masks() -> None:
    simple, free = (vertices(optimised(smoothness=weight)).sum() for weight in (0.5, 0.0))
    assert simple < free


def test_noise_comes_from_the_seed() -> None:
    def start(seed: int) -> Tensor:
        settings = OPCSettings(initial="noise", binary=False)
        return MaskOptimiser(targets(), window(), settings, seed).masks()

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert (start(1) - 0.5).abs().max() < 0.4


@pytest.mark.parametrize(
    "setting",
    [
        {"l2_weight": 0.0},
        {"pv_weight": 0.0},
        {"mask_steepness": 8.0},
        {"print_steepness": 20.0},
        {"threshold": 0.3},
        {"lr": 0.02},
        {"smoothness": 1.0},
        {"binary_weight": 5.0},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_changes_the_masks(setting: dict[str, float]) -> None:
    few = {"steps": 3, "binary": False}
    assert not torch.equal(optimised(**few), optimised(**few, **setting))
