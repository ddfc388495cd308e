"""Schedules against closed forms, and against torch's where the convention is the same."""

from __future__ import annotations

import math

import pytest
import torch

from neuro.training.schedules import Constant, Cosine, OneCycle


def factors(schedule, total):
    return [schedule.factor(step, total) for step in range(total)]


def test_constant():
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]


def test_cosine_in_closed_form():
    values = factors(Cosine(warmup=0.2, min_factor=0.1), 10)
    assert values[:2] == [0.5, 1.0]  # two updates of warm-up, the first above zero
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 7)) for i in range(8)]
    assert values[2:] == pytest.approx(expected)


def test_cosine_reaches_its_end_at_the_last_update_where_torch_would_one_later():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.2)
    values = []
    for _ in range(10):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert factors(Cosine(warmup=0.0, min_factor=0.2), 10) == pytest.approx(values)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize("total, pct", [(20, 0.3), (10, 0.5), (37, 0.1)])
def test_onecycle_is_torchs(anneal, total, pct):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=pct, div_factor=10.0,
        final_div_factor=5.0, anneal_strategy={"cosine": "cos", "linear": "linear"}[anneal],
        cycle_momentum=False,
    )  # fmt: skip
    values = []
    for _ in range(total):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(values) < total:
            scheduler.step()
    # torch divides the start, ours the peak: 10 * 5 = 50
    own = OneCycle(pct_start=pct, div_factor=10.0, final_div_factor=50.0, anneal=anneal)
    assert factors(own, total) == pytest.approx(values)


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), Cosine(0.5, 0.3), OneCycle()])
@pytest.mark.parametrize("total", [1, 2, 3, 50])
def test_factors_stay_within_0_and_1_and_hold_past_the_end(schedule, total):
    values = factors(schedule, total)
    assert all(0 <= value <= 1 for value in values)
    assert schedule.factor(total + 5, total) == pytest.approx(schedule.factor(total, total))
    if total == 50:
        assert max(values) == pytest.approx(1.0, abs=0.01)
        assert schedule.factor(total, total) == pytest.approx(values[-1])


@pytest.mark.parametrize(
    "changed",
    [
        Cosine(warmup=0.3),
        Cosine(min_factor=0.5),
    ],
)
def test_every_option_of_cosine_has_an_effect(changed):
    assert factors(Cosine(), 20) != factors(changed, 20)


@pytest.mark.parametrize(
    "changed",
    [
        OneCycle(pct_start=0.5),
        OneCycle(div_factor=2.0),
        OneCycle(final_div_factor=2.0),
        OneCycle(anneal="linear"),
    ],
)
def test_every_option_of_onecycle_has_an_effect(changed):
    assert factors(OneCycle(), 20) != factors(changed, 20)
