"""Schedules driven by validations: plateau against torch, greedy and adaptive by hand, resume."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from neuro.experiment.rules import check_metrics
from neuro.io import checkpoint
from neuro.training.callbacks.base import Callback
from neuro.training.phases import parse_phases, resolve
from neuro.training.schedules import Adaptive, Greedy, Length, Plateau, Span
from tests.fakes import (
    SGD,
    FakeData,
    linear,
    make_setup,
    make_trainer,
    plain,
    same_state,
    series,
)

SPAN = Span(1000, 10)


def levels(schedule, values, direction="max"):
    """The factor after each validation."""
    found = []
    for i, value in enumerate(values):
        schedule.observe(value, direction, 10 * (i + 1), SPAN)
        found.append(schedule.factor(10 * (i + 1), SPAN))
    return found


def noisy(seed, n=120):
    generator = torch.Generator().manual_seed(seed)
    return (torch.linspace(1, 0.3, n) + 0.1 * torch.randn(n, generator=generator)).abs().tolist()


@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize(
    "patience, cooldown, threshold, least", [(3, 0, 1e-4, 0.0), (0, 2, 0.05, 0.0), (2, 4, 0.0, 0.1)]
)
def test_plateau_is_torchs(direction, mode, patience, cooldown, threshold, least):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(
        optimizer, direction, 0.5, patience, threshold, mode, cooldown, min_lr=least, eps=0.0
    )
    values = [*noisy(0), math.nan, math.inf if direction == "min" else -math.inf, *noisy(1)]
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    own = Plateau(0.5, patience, threshold, mode, cooldown, min_factor=least)
    assert levels(own, values, direction) == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_a_threshold_is_relative_to_the_best_or_absolute():
    values = [0.1, 0.104, 0.108]
    assert levels(Plateau(0.5, 0, 0.03, "rel"), values) == [1, 1, 1]
    assert levels(Plateau(0.5, 0, 0.03, "abs"), values) == [1, 0.5, 0.25]


def test_greedy_compares_the_best_before_and_after_each_window():
    values = [1.0, 1.02, 0.5, 0.6, 1.02, 1.025, 1.02, 1.5]
    #          |    window   |     window     |   window
    expected = [1, 1, 1.1, 1.1, 1.1 * 0.9, 1.1 * 0.9, 1.1 * 0.9 * 0.9, 1.1 * 0.9 * 0.9]
    assert levels(Greedy(patience=2), values) == pytest.approx(expected)
    # a loss to minimise, with negative values
    assert levels(Greedy(patience=1), [-1.0, -1.005, -1.1], "min") == pytest.approx([1, 0.9, 0.99])


def test_adaptive_counts_improvements_and_failures_in_a_row():
    good = [0.1, 0.2, 0.3, 0.4]  # the first value has no predecessor
    assert levels(Adaptive(), good) == pytest.approx([1, 1, 1, 1.2])
    bad = [0.5, 0.4, 0.5, 0.50001, math.nan, 0.3]
    assert levels(Adaptive(), bad) == pytest.approx([1, 1, 1, 1, 1, 0.7])
    broken = [0.5, 0.6, 0.7, 0.6, 0.8, 0.9]  # a failure resets the count
    assert levels(Adaptive(), broken)[-1] == 1.0


def test_adaptive_has_a_cooldown_after_a_change():
    values = [0.1 * i for i in range(1, 12)]
    eager = levels(Adaptive(patience_increase=2), values)
    rested = levels(Adaptive(patience_increase=2, cooldown=3), values)
    assert eager == pytest.approx([1, 1, *(1.2**k for k in (1, 1, 2, 2, 3, 3, 4, 4, 5))])
    assert rested == pytest.approx([1, 1, *(1.2**k for k in (1, 1, 1, 1, 1, 2, 2, 2, 2))])


@pytest.mark.parametrize("kind", [Greedy, Adaptive])
def test_levels_stay_within_their_bounds(kind):
    up = levels(kind(max_factor=1.5), [float(i) for i in range(1, 100)])
    assert max(up) == up[-1] == 1.5
    down = levels(kind(min_factor=0.4), [1.0] * 100)
    assert min(down) == down[-1] == 0.4
    with pytest.raises(ValueError, match="must have 1, the peak"):
        kind(min_factor=2.0, max_factor=3.0)


@pytest.mark.parametrize("kind", [Plateau, Greedy, Adaptive])
def test_validations_during_the_warmup_are_ignored(kind):
    options = {"patience_decrease": 1} if kind is Adaptive else {"patience": 1}
    warm = kind(warmup=Length(steps=40), **options)
    assert levels(warm, [1.0, 0.5, 0.5])[:3] == [11 / 40, 21 / 40, 31 / 40]
    assert warm.level == 1.0
    assert warm.best == 1.0
    assert levels(warm, [0.5] * 9)[-1] < 1
    assert kind(warmup=Length(steps=4)).factor(0, SPAN) == 0.25


@pytest.mark.parametrize(
    "base, changed",
    [
        (
            Plateau,
            [{"decrease": 0.5}, {"patience": 3}, {"threshold": 0.5}, {"min_factor": 0.05},
             {"cooldown": 9, "patience": 3}, {"warmup": Length(steps=500)}],
        ),
        (
            Greedy,
            [{"increase": 2.0}, {"decrease": 0.1}, {"patience": 2}, {"threshold": 0.3},
             {"min_factor": 1.0}, {"max_factor": 1.0}, {"warmup": Length(steps=500)}],
        ),
        (
            Adaptive,
            [{"increase": 2.0}, {"decrease": 0.1}, {"patience_increase": 1},
             {"patience_decrease": 2}, {"threshold": 0.5}, {"cooldown": 2}, {"min_factor": 1.0},
             {"max_factor": 1.0}, {"warmup": Length(steps=500)}],
        ),
    ],
)  # fmt: skip
def test_every_option_has_an_effect(base, changed):
    values = [float(i) for i in range(1, 15)] + [5.0] * 40
    plain = levels(base(), values)
    for options in changed:
        assert levels(base(**options), values) != plain, options


@pytest.mark.parametrize("kind", [Plateau, Greedy, Adaptive])
def test_states_are_plain_data_and_resumable(kind):
    values = noisy(3, 60)
    options = {} if kind is Adaptive else {"patience": 3}
    whole = levels(kind(**options), values, "min")
    first, second = kind(**options), kind(**options)
    levels(first, values[:25], "min")
    second.load_state_dict(plain(first.state_dict()))
    found = []
    for value in values[25:]:
        second.observe(value, "min", 999, SPAN)
        found.append(second.factor(999, SPAN))
    assert found == whole[25:]
    assert len(set(found)) > 1


# -- in training ------------------------------------------------------------------------------

NODES = {
    "Plateau": {"patience": 0, "decrease": 0.5, "threshold": 0.2},
    "Greedy": {"patience": 1},
    "Adaptive": {"patience_increase": 1, "patience_decrease": 1},
}
PHASES = {"one": {"task": "fast", "epochs": 3}, "two": {"task": "slow", "epochs": 3}}


def run(directory, kind, state=None):
    model = linear()
    node = {"_target_": f"neuro.training.schedules.{kind}", **NODES[kind]}
    trainer = make_trainer(
        directory, model, phases=PHASES, scheduler=node, state=state, log={"steps": 1},
        validation={"steps": 1}, checkpoint={"steps": 1}, keep=99, monitor="val/loss",
        direction="min",
    )  # fmt: skip
    trainer.fit(state)
    return model.state_dict(), series(directory, "train/lr")


@pytest.mark.parametrize("kind", NODES)
def test_a_resumed_run_has_the_rates_of_one_never_stopped(kind, tmp_path):
    weights, rates = run(tmp_path / "whole", kind)
    values = [rate for _, rate in rates]
    assert len(set(values[:12])) > 2  # it changes within a phase
    assert values[0] == values[12] == 0.1  # and is reset at the next
    for step in (2, 7, 11, 12, 15):
        part = tmp_path / str(step)
        shutil.copytree(tmp_path / "whole", part)
        state = checkpoint.load(part / "checkpoints" / f"step-{step:08d}.safetensors")
        again = run(part, kind, state)
        assert again[1] == rates, step
        assert same_state(again[0], weights), step


def test_a_schedule_may_monitor_another_metric_than_the_trainer(tmp_path):
    """The accuracy is constant while the loss falls; each has its own direction."""

    class Script(Callback):
        def on_validation(self, trainer, metrics):
            metrics["val/accuracy"] = 0.5
            metrics["val/loss"] = 1 / trainer.progress.step

    factors = {}
    for monitor in (None, "val/accuracy", "val/loss"):
        scheduler = {"_target_": "neuro.training.schedules.Plateau", "patience": 1,
                     "monitor": monitor}  # fmt: skip
        trainer = make_trainer(
            tmp_path / str(monitor), linear(), phases={"one": {"task": "fast", "epochs": 6}},
            callbacks={"script": Script()}, scheduler=scheduler,
        )  # fmt: skip
        trainer.fit()
        factors[monitor] = trainer.plan[0].schedule.level
    assert factors["val/accuracy"] == factors[None] < 1 == factors["val/loss"]


def test_the_monitor_of_a_schedule_is_checked():
    schedule = {"_target_": "neuro.training.schedules.Greedy", "monitor": "val/los"}
    parsed = parse_phases({"one": {"task": "fast", "epochs": 1}}, SGD, schedule, ["fast"])
    plan = resolve(parsed, data=FakeData(), model=linear(), accumulate=1, seed=0)
    (problem,) = check_metrics(make_setup(linear())._replace(plan=plan), ["test/accuracy"])
    assert problem.startswith("scheduler.monitor: phase 'one' validates no 'val/los'. Allowed: val")
    assert problem.endswith("Did you mean 'val/loss'?")
