"""Running means: exact values, also after a resume."""

from __future__ import annotations

import pytest
import torch

from neuro.training.meter import Meter

CPU = torch.device("cpu")


def numbers(count: int) -> list[tuple[float, int]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(count, generator=generator).tolist()
    return [(value, 1 + i % 5) for i, value in enumerate(values)]


def alone(value: torch.Tensor) -> torch.Tensor:
    return value


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_the_mean_is_weighted(count):
    meter = Meter()
    for value, weight in numbers(count):
        meter.add("loss", torch.tensor(value), weight)
    weights = sum(weight for _, weight in numbers(count))
    expected = sum(value * weight for value, weight in numbers(count)) / weights
    assert meter.read(alone) == {"loss": pytest.approx(expected, rel=1e-6)}
    assert not meter


def test_scores_count_labelled_samples_only():
    meter = Meter()
    for share, labelled in ((0.5, 2), (0.0, 0), (1.0, 6)):
        meter.add("accuracy", torch.tensor(share), torch.tensor(labelled))
    assert meter.read(alone) == {"accuracy": pytest.approx(7 / 8)}
    meter.add("accuracy", torch.tensor(0.0), torch.tensor(0))
    assert meter.read(alone) == {}


@pytest.mark.parametrize("labelled", [int, torch.tensor])
@pytest.mark.parametrize("saved_at", [1, 63, 64, 100])
def test_a_resumed_meter_is_bit_identical(saved_at, labelled):
    whole, first, second = Meter(), Meter(), Meter()
    for i, (value, weight) in enumerate(numbers(150)):
        weight = labelled(weight)
        whole.add("loss", torch.tensor(value), weight)
        if i == saved_at:
            second.load_state_dict([first.state_dict()], 0, 1, CPU)
        (first if i < saved_at else second).add("loss", torch.tensor(value), weight)
    assert second.read(alone) == whole.read(alone)
