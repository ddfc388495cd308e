"""Models from masks to images: sizes, equivariance, and invalid settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.models.lithography.base import ImageModel
from neuro.models.lithography.fno import FNO
from neuro.models.lithography.optical_kernels import OpticalKernels
from neuro.models.lithography.unet import UNet
from neuro.ops.optics import socs_image


def spec(size: int = 32, channels: int = 1, kind: str = "image", steps: int = 1) -> TaskSpec:
    shape = (channels, size, size)
    return TaskSpec("a", InputSpec(shape), TargetSpec(kind, shape), ((steps, None),))


MODELS: dict[str, Callable[[TaskSpec], ImageModel]] = {
    "unet": lambda s: UNet(s, channels=4),
    "unet, large kernel": lambda s: UNet(s, channels=4, large_kernel=31),
    "fno": lambda s: FNO(s, width=4, modes=6, depth=2),
    "optical kernels": lambda s: OpticalKernels(s, kernels=3, frequencies=9),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_shifted_mask_has_a_shifted_image(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](spec())
    masks = (torch.rand(2, 1, 1, 32, 32) > 0.5).float()
    with torch.no_grad():
        image = model(masks, dt_ms=None).values
        moved = model(masks.roll((5, -11), (-2, -1)), dt_ms=None).values
    assert image.shape == (2, 1, 32, 32)
    assert image.std() > 1e-4
    torch.testing.assert_close(moved, image.roll((5, -11), (-2, -1)), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](spec())
    model((torch.rand(2, 1, 1, 32, 32) > 0.5).float(), dt_ms=None).values.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


def test_sizes() -> None:
    """The guide's U-Net has about 2 million parameters; keys change sizes as documented."""

    def size(model: ImageModel) -> int:
        return sum(p.numel() for p in model.parameters())

    assert size(UNet(spec(), channels=32)) == pytest.approx(2e6, rel=0.05)
    base = size(UNet(spec()))
    assert size(UNet(spec(), dilations=(1, 2, 4))) < base
    assert size(UNet(spec(), group=8)) == base  # groups have no separate weights
    fno = size(FNO(spec(), width=4, modes=4, depth=2))
    assert size(FNO(spec(), width=4, modes=5, depth=2)) > fno
    assert size(FNO(spec(), width=4, modes=4, depth=3)) > fno
    assert size(OpticalKernels(spec(), kernels=5, frequencies=7)) == 5 * 7 * 7 * 2


def test_groups_and_dilations_change_the_image() -> None:
    masks = (torch.rand(1, 1, 1, 32, 32) > 0.5).float()
    images = []
    for keys in ({}, {"group": 8}, {"dilations": (1, 1, 1, 1)}):
        torch.manual_seed(0)
        images.append(UNet(spec(), **keys)(masks, dt_ms=None).values)
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_learned_kernels_equal_the_simulator() -> None:
    model = OpticalKernels(spec(), kernels=3, frequencies=9)
    masks = (torch.rand(2, 1, 1, 32, 32) > 0.5).float()
    expected = socs_image(masks[:, 0], model.kernels)
    assert torch.equal(model(masks, dt_ms=None).values, expected)
    clear = model(torch.ones(1, 1, 1, 32, 32), dt_ms=None).values
    torch.testing.assert_close(clear, torch.ones(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet(spec(kind="value")), "maps an image to an image"),
        (lambda: UNet(spec(steps=5)), "maps an image to an image"),
        (lambda: UNet(spec(), channels=6), r"model\.group: got 4; expected a divisor"),
        (lambda: UNet(spec(), large_kernel=30), r"model\.large_kernel: got 30; expected an odd"),
        (lambda: UNet(spec(8), dilations=(1, 8)), "must stay below the tile's 8 pixels"),
        (lambda: FNO(spec(), modes=17), r"model\.modes: got 17; .* has 16 frequencies"),
        (lambda: OpticalKernels(spec(), frequencies=8), r"model\.frequencies: got 8; .* an odd"),
        (lambda: OpticalKernels(spec(), frequencies=33), "at most 32, the pixels"),
        (lambda: OpticalKernels(spec(channels=2)), "one mask and one image"),
    ],
)
def test_invalid_options(make: Callable[[], ImageModel], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="records nothing"):
        FNO(spec())(torch.ones(1, 1, 1, 32, 32), dt_ms=None, record=("x",))
