"""Weights of samples (`Batch.weights`) in the losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch
from neuro.data.store import NO_LABEL
from neuro.errors import ConfigError
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.losses.margins import Gap
from neuro.learning.losses.mse import MSE, Distillation
from neuro.learning.losses.weights import RegJ
from neuro.learning.objective import Objective
from neuro.learning.step import TrainStep
from neuro.learning.terms import Term
from neuro.models.base import ModelOutput
from tests.fakes import FakeData, linear

WEIGHTS = torch.tensor([0.5, 2.0, 0.0])


def loss(term: Term, values: torch.Tensor, targets: torch.Tensor, weights: object) -> torch.Tensor:
    batch = Batch(torch.zeros(3, 1, 1), targets, 1.0, weights=weights)
    return term(None, batch, ModelOutput(values, (), {})).loss


@pytest.mark.parametrize("present_only", [False, True])
def test_cross_entropy_of_classes_and_of_steps(present_only: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    term = CrossEntropy(present_only=present_only, temperature=2.0)
    scores, labels = torch.randn(3, 4, generator=generator), torch.tensor([0, 3, 1])
    own = torch.stack([loss(term, scores, labels, 3 * F.one_hot(torch.tensor(i), 3).float())
                       for i in range(3)])  # fmt: skip
    torch.testing.assert_close(loss(term, scores, labels, WEIGHTS), (own * WEIGHTS).mean())
    torch.testing.assert_close(
        loss(term, scores, labels, torch.ones(3)), loss(term, scores, labels, None)
    )
    scores = torch.randn(3, 2, 4, generator=generator)
    labels = torch.tensor([[0, 3], [NO_LABEL, 1], [2, 0]])
    losses = F.cross_entropy((scores / 2).flatten(0, 1), labels.flatten(), reduction="none")
    expected = (losses.view(3, 2) * WEIGHTS[:, None]).sum() / 5
    torch.testing.assert_close(loss(term, scores, labels, WEIGHTS), expected)


def test_squared_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    values, targets = torch.randn(2, 3, 2, 2, generator=generator)
    expected = ((values - targets).square().mean((1, 2)) * WEIGHTS).mean()
    torch.testing.assert_close(loss(MSE(), values, targets, WEIGHTS), expected)


def test_losses_that_would_ignore_weights_are_refused() -> None:
    batch = next(FakeData().loader("fast", "train").batches())._replace(weights=torch.ones(4))
    plain = {"ce": CrossEntropy(), "reg_j": RegJ()}
    assert torch.isfinite(TrainStep(linear(), Objective(plain))(batch).total)
    with pytest.raises(ConfigError, match=r"loss\.gap: Gap has no weights of samples"):
        TrainStep(linear(), Objective({"gap": Gap()}))(batch)


def test_distillation_counts_the_steps_that_are_no_padding() -> None:
    batch = Batch(torch.zeros(2, 5, 1), torch.zeros(2), 1.0)
    assert Distillation().count(batch) == 2
    assert Distillation().count(batch._replace(lengths=torch.tensor([1, 5]))) == 6
