"""Metrics against their definitions, and several of them in one objective."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec
from neuro.data.store import NO_LABEL
from neuro.errors import ConfigError
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.losses.mse import MSE
from neuro.learning.metrics import (
    PSNR,
    Accuracy,
    Bits,
    BitsPerByte,
    MeanAbsoluteError,
    MeanSquaredError,
    MetricSums,
    NegativeLogLikelihood,
    Perplexity,
)
from neuro.learning.objective import Objective
from neuro.models.base import ModelOutput
from tests.fakes import FakeData, linear

GENERATOR = torch.Generator().manual_seed(1)
SCORES = torch.randn(20, 6, generator=GENERATOR)
LABELS = torch.randint(6, (20,), generator=GENERATOR)
VALUES, TARGETS = torch.rand(7, 3, generator=GENERATOR), torch.rand(7, 3, generator=GENERATOR)
NLL = F.cross_entropy(SCORES, LABELS).item()
SQUARES = (VALUES - TARGETS).square()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Accuracy(), (SCORES.argmax(1) == LABELS).float().mean().item()),
        (
            Accuracy(top=3),
            sum(int(y in row.topk(3).indices) for row, y in zip(SCORES, LABELS, strict=True)) / 20,
        ),
        (Accuracy(top=99), 1.0),
        (NegativeLogLikelihood(), NLL),
        (Perplexity(), math.exp(NLL)),
        (Bits(), NLL / math.log(2)),
    ],
)
def test_metrics_of_classes(metric, expected):
    assert metric.value(metric.sums(SCORES, LABELS)) == pytest.approx(expected)
    padded = torch.cat([LABELS, torch.full((4,), NO_LABEL)])
    more = torch.cat([SCORES, torch.randn(4, 6)])
    assert metric.value(metric.sums(more, padded)) == pytest.approx(expected)
    halves = metric.sums(SCORES[:7], LABELS[:7]) + metric.sums(SCORES[7:], LABELS[7:])
    assert metric.value(halves) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (MeanAbsoluteError(), (VALUES - TARGETS).abs().mean().item()),
        (MeanSquaredError(), SQUARES.mean().item()),
        (PSNR(), -10 * math.log10(SQUARES.mean().item())),
        (PSNR(peak=2.0), 10 * math.log10(4 / SQUARES.mean().item())),
    ],
)
def test_metrics_of_values(metric, expected):
    assert metric.value(metric.sums(VALUES, TARGETS)) == pytest.approx(expected)
    image, other = VALUES.view(7, 1, 3, 1), TARGETS.view(7, 1, 3, 1)
    assert metric.value(metric.sums(image, other)) == pytest.approx(expected)


def test_bits_per_byte_divide_the_code_length_by_the_bytes_of_the_text():
    spec = TaskSpec(
        "text", InputSpec((), "int", 4), TargetSpec("token", (), 4, (1, 3, 2, 0)), ((3, None),)
    )
    outputs = torch.randn(2, 3, 4, generator=GENERATOR)
    targets = torch.tensor([[1, 2, 3], [0, NO_LABEL, 1]])
    bits = -outputs.log_softmax(-1) / math.log(2)
    expected = sum(
        float(bits[i, j, targets[i, j]]) for i in range(2) for j in range(3) if (i, j) != (1, 1)
    )
    metric = BitsPerByte(spec)
    parts = metric.sums(outputs[:1], targets[:1]) + metric.sums(outputs[1:], targets[1:])
    assert metric.value(parts) == pytest.approx(expected / (3 + 2 + 0 + 1 + 3), rel=1e-5)
    assert (metric.direction, metric.targets) == ("min", ("token",))
    only_ends = metric.sums(outputs, torch.full_like(targets, 3))
    assert metric.value(only_ends) == math.inf


def test_bits_per_byte_need_symbols_of_a_text():
    spec = TaskSpec("a", InputSpec((), "int", 4), TargetSpec("token", (), 4), ((3, None),))
    with pytest.raises(ConfigError, match=r"metric\.bits_per_byte: .*Use metric=\[bits\]"):
        BitsPerByte(spec)


def test_infinite_values_of_exact_and_of_impossible_outputs():
    assert PSNR().value(PSNR().sums(VALUES, VALUES)) == math.inf
    assert Perplexity().value(torch.tensor([1e6, 1.0])) == math.inf


def test_losses_per_sample_average_to_the_loss():
    nll, mse = NegativeLogLikelihood(), MeanSquaredError()
    assert nll.per_sample(SCORES, LABELS).mean().item() == pytest.approx(NLL)
    assert mse.per_sample(VALUES, TARGETS).mean().item() == pytest.approx(SQUARES.mean().item())
    steps, labels = SCORES.view(5, 4, 6), LABELS.view(5, 4).clone()
    labels[2, 1:] = NO_LABEL
    losses = nll.per_sample(steps, labels)
    assert losses[2].item() == pytest.approx(F.cross_entropy(steps[2, :1], labels[2, :1]).item())


def test_an_objective_measures_all_of_its_metrics():
    metrics = {"top_2": Accuracy(top=2), "perplexity": Perplexity(), "accuracy": Accuracy()}
    objective = Objective({"ce": CrossEntropy()}, metrics=metrics)
    assert objective.main_metric == "top_2"
    assert objective.directions == {
        "top_2": "max", "perplexity": "min", "accuracy": "max", "loss": "min"
    }  # fmt: skip
    batch = Batch(torch.zeros(20, 1, 1), LABELS, 1.0)
    loss = objective(None, batch, ModelOutput(SCORES[:, None], (), {}))
    for name, metric in metrics.items():
        assert torch.equal(loss.metrics[name], metric.sums(SCORES, LABELS))
    sums = MetricSums(objective.measures, torch.device("cpu"))
    sums.add(SCORES, LABELS)
    assert list(sums.values()) == ["loss", *metrics]


def test_a_metric_must_fit_the_targets_and_have_a_name_of_its_own():
    spec, model = FakeData().spec("fast"), linear()
    wrong = Objective({"ce": CrossEntropy()}, metrics={"mae": MeanAbsoluteError()})
    with pytest.raises(ConfigError, match=r"metric\.mae: .* measures targets of kind value"):
        wrong.check(model, spec)
    twice = Objective(
        {"accuracy": CrossEntropy(), "other": CrossEntropy()}, metrics={"accuracy": Accuracy()}
    )
    with pytest.raises(ConfigError, match=r"metric\.accuracy: loss has a term of this name"):
        twice.check(model, spec)
    Objective({"mse": MSE()}, "none", target="image", metrics={"mse": MeanSquaredError()})
