"""Objectives on outputs of any shape (`mapping: none`): images, and a class at each pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec
from neuro.errors import ConfigError
from neuro.experiment.predict import _columns, _rows
from neuro.learning.evaluation import predict
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.losses.mse import MSE
from neuro.learning.objective import Objective
from neuro.learning.step import TrainStep
from neuro.models.base import CoreModel, ModelOutput
from tests.fakes import FakeLoader

CPU = torch.device("cpu")
MASKS = (torch.rand(6, 1, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.5).float()
NEIGHBOURS = nn.functional.avg_pool2d(MASKS[:, 0], 3, 1, 1)
SPEC = TaskSpec("masks", InputSpec((1, 5, 5)), TargetSpec("image", (1, 5, 5)), ((1, None),))


class Blur(CoreModel):
    """One convolution: `[B, 1, 1, H, W]` to images `[B, 1, H, W]`, or scores `[B, H, W, K]`."""

    def __init__(self, spec: TaskSpec):
        super().__init__()
        self.classes = spec.targets.classes
        self.layer = nn.Conv2d(1, self.classes or 1, 3, padding=1)

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, inputs: Tensor, state: Any = None, *, dt_ms, record=()) -> ModelOutput:
        assert dt_ms is None
        maps = self.layer(inputs[:, 0])
        return ModelOutput(maps if self.classes is None else maps.movedim(1, -1), (), {})


def fitted(model: CoreModel, objective: Objective, targets: Tensor) -> tuple[float, float]:
    """The loss before and after 200 updates on one batch."""
    step, optimizer = TrainStep(model, objective), torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(200):
        loss = step(Batch(MASKS, targets, None)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_images_are_learned_by_their_squared_error() -> None:
    torch.manual_seed(0)
    model, objective = Blur(SPEC), Objective({"mse": MSE()}, "none", target="image")
    objective.check(model, SPEC)
    values = model(MASKS, dt_ms=None).values
    step = TrainStep(model, objective)(Batch(MASKS, NEIGHBOURS, None))
    torch.testing.assert_close(step.total, (values - NEIGHBOURS).square().mean())
    first, last = fitted(model, objective, NEIGHBOURS)
    assert last < 0.01 * first
    found = predict(model, objective, FakeLoader(MASKS, NEIGHBOURS, (1, None), 4), CPU)
    assert found.decisions.shape == found.targets.shape == (6, 1, 5, 5)
    assert len(_columns(SPEC, None)) == len(next(_rows(found, by_place=False))) == 51


def test_outputs_of_another_shape_are_refused() -> None:
    step = TrainStep(Blur(SPEC), Objective({"mse": MSE()}, "none", target="image"))
    with pytest.raises(ConfigError, match=r"outputs .* shape \[1, 5, 5\], its targets \[5, 5\]"):
        step(Batch(MASKS, NEIGHBOURS[:, 0], None))


def test_a_class_is_learned_at_each_pixel() -> None:
    torch.manual_seed(0)
    classes = (2.99 * NEIGHBOURS[:, 0]).long()  # three of them
    spec = TaskSpec(
        "masks", InputSpec((1, 5, 5)), TargetSpec("class_map", (5, 5), classes=3), ((1, None),)
    )
    model, objective = Blur(spec), Objective({"ce": CrossEntropy()}, "none", target="class_map")
    objective.check(model, spec)
    first, last = fitted(model, objective, classes)
    assert last < 0.5 * first
    found = predict(model, objective, FakeLoader(MASKS, classes, (1, None), 4), CPU)
    assert found.decisions.shape == found.targets.shape == (6, 5, 5)
    assert (found.decisions == classes).float().mean() > 0.8
    rows = list(_rows(found, by_place=True))
    assert len(rows) == 6 * 25
    assert rows[26][:2] == [1, 1]
    assert len(_columns(spec, "place")) == len(rows[0]) == 7
