"""Evaluation: sums that do not depend on the batches, and no side effects on the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch
from neuro.data.store import NO_LABEL
from neuro.learning.evaluation import evaluate, predict
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.metrics import MetricSums
from neuro.learning.objective import Objective
from tests.fakes import FakeData, FakeLoader, linear

CPU = torch.device("cpu")
OBJECTIVE = Objective({"ce": CrossEntropy()})


def by_hand(model, task="fast"):
    inputs, labels = FakeData().splits[task, "test"]
    scores = model(inputs.expand(-1, 6, -1, -1, -1), dt_ms=1.0).values.mean(1)
    accuracy = (scores.argmax(1) == labels).float().mean()
    return F.cross_entropy(scores, labels).item(), accuracy.item()


@pytest.mark.parametrize("size", [1, 3, 5, 8, 100])
def test_means_do_not_depend_on_the_batches(size):
    model = linear()
    loader = FakeData().loader("fast", "test", batch_size=size)
    metrics = evaluate(model, OBJECTIVE, loader, CPU).values()
    loss, accuracy = by_hand(model)
    assert metrics["loss"] == pytest.approx(loss)
    assert metrics["accuracy"] == accuracy


class WithEmpty(FakeLoader):
    """Part of a split with some empty batches, as in a process without samples."""

    def batches(self, epoch=0, start=0):
        for batch in super().batches(epoch, start):
            yield batch
            yield Batch(batch.inputs[:0], batch.targets[:0], batch.dt_ms, batch.frames)


def test_empty_batches_do_not_count():
    inputs, labels = FakeData().splits["fast", "test"]
    model = linear()
    loader = WithEmpty(inputs, labels, (6, 1.0), 3)
    measured = evaluate(model, OBJECTIVE, loader, CPU)
    assert measured.sums[-1] == 8
    assert measured.values()["loss"] == pytest.approx(by_hand(model)[0])
    assert len(predict(model, OBJECTIVE, loader, CPU).targets) == 8


def test_sums_add_up_over_processes():
    scores, labels = torch.randn(8, 4), torch.tensor([0, 1, 2, 3, 0, NO_LABEL, 2, 3])
    whole, first, second = (MetricSums(OBJECTIVE.measures, CPU) for _ in range(3))
    whole.add(scores, labels)
    first.add(scores[:3], labels[:3])
    second.add(scores[3:], labels[3:])
    first.sums += second.sums
    assert first.values() == pytest.approx(whole.values())
    assert whole.values()["accuracy"] == (scores.argmax(1) == labels).sum().item() / 7


def test_predictions_come_in_the_order_of_the_split():
    model = linear()
    found = predict(model, OBJECTIVE, FakeData().loader("slow", "test", batch_size=3), CPU)
    inputs, labels = FakeData().splits["slow", "test"]
    assert torch.equal(found.targets, labels)
    torch.testing.assert_close(found.outputs, model(inputs, dt_ms=20.0).values.mean(1))
    assert torch.equal(found.decisions, found.outputs.argmax(1))


@pytest.mark.parametrize("mode", [True, False])
def test_the_models_mode_and_gradients_are_not_changed(mode):
    model = linear().train(mode)
    seen = []
    model.register_forward_hook(lambda m, *_: seen.append((m.training, torch.is_grad_enabled())))
    evaluate(model, OBJECTIVE, FakeData().loader("fast", "val"), CPU)
    assert set(seen) == {(False, False)}
    assert model.training is mode
    assert all(p.grad is None for p in model.parameters())

    def fail(*_):
        raise KeyboardInterrupt

    model.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, OBJECTIVE, FakeData().loader("fast", "val"), CPU)
    assert model.training is mode


def test_one_decision_per_step():
    class PerStep(FakeLoader):
        def batches(self, epoch=0, start=0):
            for batch in super().batches(epoch, start):
                yield batch._replace(targets=batch.targets[:, None].expand(-1, 6))

    inputs, labels = FakeData().splits["fast", "test"]
    objective = Objective({"ce": CrossEntropy()}, mapping="seq2seq")
    model = linear()
    metrics = evaluate(model, objective, PerStep(inputs, labels, (6, 1.0), 3), CPU).values()
    loss, accuracy = by_hand(model)  # here all steps have the same decision
    assert metrics["accuracy"] == pytest.approx(accuracy)
    assert metrics["loss"] == pytest.approx(loss)
