"""Inputs that sequence models refuse."""

from __future__ import annotations

import pytest

from neuro.config.build import build
from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.models.base import CoreModel
from tests.soen import CONNECTIONS, LAYERS

FRAMES, TOKENS = InputSpec((1, 6, 6)), InputSpec((), "int", vocabulary=9)
CLASSES, IMAGES = TargetSpec("class", classes=4), TargetSpec("image", (1, 6, 6))
LIF = {
    "_target_": "neuro.models.spiking_cnn.SpikingCNN",
    "neuron": {"_target_": "neuro.layers.lif.LIFNeuron"},
}
SOEN = {
    "_target_": "neuro.models.soen.model.SOEN",
    "layers": list(LAYERS), "connections": list(CONNECTIONS),
}  # fmt: skip
PIXELS = {"_target_": "neuro.models.pixels.Pixels"}


@pytest.mark.parametrize("node", [LIF, SOEN, PIXELS], ids=["lif", "soen", "pixels"])
@pytest.mark.parametrize(
    ("inputs", "targets", "dt_ms", "message"),
    [
        (TOKENS, CLASSES, 1.0, "needs numbers as inputs; task 'a' has integers"),
        (FRAMES, IMAGES, 1.0, r"task 'a' has targets of shape \[1, 6, 6\] \(image\)"),
    ],
)
def test_integers_and_images_are_refused(node, inputs, targets, dt_ms, message) -> None:
    spec = TaskSpec("a", inputs, targets, ((6, dt_ms),))
    with pytest.raises(ConfigError, match=message):
        build(node, CoreModel, "model", spec=spec)


def test_time_constants_need_a_time_step() -> None:
    spec = TaskSpec("a", FRAMES, CLASSES, ((6, None),))
    with pytest.raises(ConfigError, match="the steps of task 'a' have no unit of time"):
        build(LIF, CoreModel, "model", spec=spec)
    build(PIXELS, CoreModel, "model", spec=spec)  # the task has no time step
