"""Values as targets: their loss, score and predictions, for both mappings."""

from __future__ import annotations

import pytest
import torch

from neuro.config.trainer import TrainerSettings
from neuro.data.base import Batch
from neuro.data.store import NO_LABEL
from neuro.errors import DataError
from neuro.learning.continual.metrics import continual_metrics
from neuro.learning.evaluation import evaluate, predict
from neuro.learning.losses.mse import MSE, Distillation
from neuro.learning.metrics import Accuracy, NegativeLogLikelihood
from neuro.learning.objective import Objective
from neuro.learning.step import TrainStep
from neuro.models.base import ModelOutput
from tests.fakes import SETTINGS, FakeLoader, linear
from tests.learning.terms import loss_on

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.rand(5, 6, 1, 6, 6, generator=GENERATOR)
TARGETS = {
    "seq2static": torch.rand(5, 4, generator=GENERATOR),
    "seq2seq": torch.rand(5, 6, 4, generator=GENERATOR),
}
KINDS = {"seq2static": "value", "seq2seq": "value_sequence"}


def objective(mapping, **terms):
    return Objective(terms or {"mse": MSE()}, mapping, target=KINDS[mapping])


def loader(mapping, size):
    class Own(FakeLoader):
        def batches(self, epoch=0, start=0):
            for batch in super().batches(epoch, start):
                yield batch._replace(frames=None)

    return Own(INPUTS, TARGETS[mapping], (6, 1.0), size)


@pytest.mark.parametrize("mapping", KINDS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_errors_do_not_depend_on_the_batches(mapping, size):
    model = linear()
    measured = evaluate(model, objective(mapping), loader(mapping, size), CPU)
    values = model(INPUTS, dt_ms=1.0).values
    away = (values.mean(1) if mapping == "seq2static" else values) - TARGETS[mapping]
    assert measured.values() == {
        "loss": pytest.approx(away.square().mean().item()),
        "mae": pytest.approx(away.abs().mean().item()),
    }


@pytest.mark.parametrize("mapping", KINDS)
def test_training_descends_the_squared_error(mapping):
    model = linear()
    batch = Batch(INPUTS, TARGETS[mapping], 1.0)
    step = TrainStep(model, objective(mapping))
    loss = step(batch)
    values = model(INPUTS, dt_ms=1.0).values
    away = (values.mean(1) if mapping == "seq2static" else values) - TARGETS[mapping]
    torch.testing.assert_close(loss.total, away.square().mean())
    total, count = loss.metrics["mae"].tolist()
    assert total / count == pytest.approx(away.abs().mean().item())
    assert loss.terms["mse"].mean == loss.total and loss.task is None
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        step(batch).total.backward()
        optimizer.step()
    assert step(batch).total < 0.5 * loss.total


def test_decisions_on_values_are_the_outputs():
    decide = objective("seq2static")
    values = torch.rand(2, 3, 4)
    assert torch.equal(decide.decode(values), values.mean(1))
    found = predict(linear(), decide, loader("seq2static", 2), CPU)
    assert torch.equal(found.decisions, found.outputs)
    assert torch.equal(found.targets, TARGETS["seq2static"])


def test_the_mean_squared_error_by_hand_and_its_gradient():
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.double, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [2.5, 5.0]])
    assert loss_on(MSE(), values, targets).item() == (4 + 0.25) / 4
    single = values.detach().float().requires_grad_()
    loss_on(MSE(), single, targets).backward()
    torch.testing.assert_close(single.grad, 2 * (single.detach() - targets) / 4)


# -- distillation -----------------------------------------------------------------------------


def test_a_student_follows_its_teacher_over_time_before_pooling():
    steps = torch.tensor([[[1.0], [2.0], [4.0]]], requires_grad=True)
    teacher = torch.tensor([[[1.5], [2.0], [1.0]]])
    pooled = torch.full((1, 1), 99.0)  # not used
    loss = loss_on(Distillation(), pooled, None, steps=steps, teacher=teacher)
    assert loss.item() == pytest.approx((0.25 + 9) / 3)
    loss.backward()
    torch.testing.assert_close(steps.grad, 2 * (steps.detach() - teacher) / 3)


def test_padding_is_not_compared_with_the_teacher():
    batch = Batch(INPUTS, torch.zeros(5, dtype=torch.long), 1.0, teacher=torch.zeros(5, 6, 4))
    steps = torch.rand(5, 6, 4)
    output = ModelOutput(steps.mean(1), (), {"values": steps})
    lengths = torch.tensor([1, 2, 3, 4, 6])
    found = Distillation()(None, batch._replace(lengths=lengths), output).loss
    own = [steps[i, :length] for i, length in enumerate(lengths)]
    torch.testing.assert_close(found, torch.cat(own).square().mean())


def test_scale_does_not_change_what_is_compared_with_the_teacher():
    terms = {"distillation": Distillation()}
    batch = Batch(INPUTS, torch.zeros(5, dtype=torch.long), 1.0, teacher=torch.zeros(5, 6, 4))
    losses = [
        TrainStep(linear(), Objective(terms, scale=s, paradigm="distillation"))(batch).total
        for s in (1.0, 7.0)
    ]
    assert losses[0] == losses[1] > 0


# -- scores -----------------------------------------------------------------------------------


def test_decisions_depend_on_the_kind_of_targets():
    values = torch.rand(2, 3)
    for kind in ("value", "value_sequence"):
        assert Objective({}, target=kind).directions == {"mae": "min", "loss": "min"}
        assert torch.equal(Objective({}, target=kind).decide(values), values)
    for kind in ("class", "class_sequence", "token"):
        assert Objective({}, target=kind).directions == {"accuracy": "max", "loss": "min"}
        assert torch.equal(Objective({}, target=kind).decide(values), values.argmax(1))


def test_missing_labels_do_not_count():
    scores = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    all_labels, some_labels = torch.tensor([0, 0]), torch.tensor([0, 0, NO_LABEL])
    nothing = torch.full((3,), NO_LABEL)
    for metric in (Accuracy(), NegativeLogLikelihood()):
        assert torch.equal(metric.sums(scores, some_labels), metric.sums(scores[:2], all_labels))
        assert metric.sums(scores, nothing).tolist() == [0, 0]


def test_a_split_without_labels_cannot_be_measured():
    inputs, none = torch.rand(2, 1, 1, 6, 6), torch.full((2,), NO_LABEL)
    measured = evaluate(linear(), Objective({}), FakeLoader(inputs, none, (6, 1.0), 2), CPU)
    with pytest.raises(DataError, match="without a single label"):
        measured.values()


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({}, ("val/mae", "min", "test/mae")),
        ({"monitor": "val/loss"}, ("val/loss", "min", "test/mae")),
        ({"monitor": "val_ema/mae"}, ("val_ema/mae", "min", "test/mae")),
        ({"direction": "max", "objective": "test/loss"}, ("val/mae", "max", "test/loss")),
    ],
)
def test_auto_selects_the_first_metric(given, resolved):
    auto = {"monitor": "auto", "direction": "auto", "objective": "auto"}
    settings = TrainerSettings.model_validate({**SETTINGS, **auto, **given}, strict=False)
    found = settings.for_metrics(Objective({}, target="value").directions)
    assert (found.monitor, found.better_is, found.objective) == resolved
    assert found.measures == ("mae", "loss")
    assert found.better(1.0, than=2.0) is (resolved[1] == "min")
    accuracy = settings.for_metrics(Objective({}).directions)
    assert accuracy.measures == ("accuracy", "loss")


def test_transfer_and_forgetting_of_errors():
    errors = [[1.0, 3.0], [2.0, 0.5]]
    found = continual_metrics(["a", "b"], errors, [["a"], ["b"]], {"b": 4.0}, "min")
    assert found.acc == 1.25
    assert found.bwt == -1.0  # the error on a has grown
    assert found.forgetting == 1.0
    assert found.fwt == 1.0  # the error on b fell before it was learned
