"""Schedules against closed forms and, where available, against torch's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from neuro.config.build import build
from neuro.errors import ConfigError
from neuro.training.schedules import (
    SGDR,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    Length,
    Linear,
    OneCycle,
    Polynomial,
    Restarts,
    Rex,
    Schedule,
    Span,
)
from neuro.training.schedules.base import CycleLength
from tests.components import check


def part(fraction):
    return Length(fraction=fraction)


def cycle(steps):
    return CycleLength(steps=steps)


def factors(schedule, total, per_epoch=1):
    return [schedule.factor(step, Span(total, per_epoch)) for step in range(total)]


def rates(make, total):
    """The rates of a scheduler of torch whose peak is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    values = []
    for _ in range(total):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(values) < total:
            scheduler.step()
    return values


OPEN_LOOP = {
    "constant": Constant(),
    "linear": Linear(),
    "linear, log": Linear(part(0.1), 1e-3, log_space=True),
    "cosine": Cosine(),
    "cosine with restarts": Cosine(part(0.1), 0.1, Restarts(growth=1.5, decay=0.7)),
    "onecycle": OneCycle(),
    "triangular": Cyclical(),
    "triangular2": Cyclical("triangular2"),
    "exp_range": Cyclical("exp_range", gamma=0.9),
    "sgdr": SGDR(t_mul=2.0, m_mul=0.5, warmup=part(0.2)),
    "polynomial": Polynomial(),
    "exponential": Exponential(),
    "rex": Rex(part(0.1), 0.05),
}


# -- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPEN_LOOP)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 50, 101])
def test_factors_are_positive_until_the_end_and_hold_past_it(name, total):
    schedule = OPEN_LOOP[name]
    values = factors(schedule, total)
    assert all(0 <= value <= 1 for value in values)
    assert values[0] > 0  # no first epoch at rate 0
    span = Span(total, 1)
    for late in (total, total + 1, 10 * total):
        assert schedule.factor(late, span) == values[-1]
    if total >= 50 and name != "exp_range":  # this one decreases from the first update
        assert max(values) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("name", OPEN_LOOP)
def test_factors_are_a_pure_function_of_the_update(name):
    schedule, span = OPEN_LOOP[name], Span(40, 5)
    forwards = [schedule.factor(step, span) for step in range(40)]
    backwards = [schedule.factor(step, span) for step in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert schedule.state_dict() == {}


WARM = {
    "linear": Linear,
    "cosine": Cosine,
    "sgdr": SGDR,
    "polynomial": Polynomial,
    "exponential": Exponential,
    "rex": Rex,
}


@pytest.mark.parametrize("kind", WARM)
def test_warmup_is_torchs_linear_rise_from_its_first_update(kind):
    warm = factors(WARM[kind](warmup=Length(steps=5)), 30)
    expected = rates(lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 5, total_iters=4), 5)
    assert warm[:5] == pytest.approx(expected)
    if kind != "sgdr":  # its cycles are relative to the whole phase
        assert warm[5:] == pytest.approx(factors(WARM[kind](warmup=part(0.0)), 25))


# -- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "updates"),
    [
        (Length(fraction=0.25), 50),
        (Length(epochs=1), 20),
        (Length(epochs=2.5), 50),
        (Length(steps=7), 7),
        (Length(steps=0), 0),
        (Length.model_validate(0.1), 20),
        (Length.model_validate(1), 200),
        (CycleLength(fraction=0.001), 2),
    ],
)
def test_a_length_in_updates(length, updates):
    assert length.updates(Span(200, 20)) == updates


def test_lengths_are_written_as_numbers_or_with_a_unit():
    def cosine(warmup):
        node = {"_target_": "neuro.training.schedules.Cosine", "warmup": warmup}
        return build(node, Schedule, "scheduler")

    span = Span(100, 10)
    for warmup in (0.1, {"fraction": 0.1}, {"epochs": 1}, {"steps": 10, "fraction": None}):
        values = [cosine(warmup).factor(step, span) for step in range(100)]
        assert values.index(1.0) == 9


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"warmup": 1.5}, r"scheduler.warmup.fraction: got 1.5; .* less than or equal to 1"),
        ({"warmup": {"steps": -1}}, r"scheduler.warmup.steps: got -1; .* greater than or equal"),
        ({"warmup": {"steps": 1.5}}, r"scheduler.warmup.steps: got 1.5; .* integer"),
        ({"warmup": {"epoch": 1}}, r"scheduler.warmup.epoch: unknown key.*'epochs'\?"),
        ({"warmup": {"epochs": 1, "steps": 2}}, r"give one of .* not epochs and steps; null"),
        ({"warmup": {}}, r"scheduler.warmup: .*not none"),
        ({"warmup": "long"}, r"scheduler.warmup: got 'long'.*0.1, {epochs: 1} or {steps: 50}"),
        ({"warmup": True}, r"scheduler.warmup: got true; .*give a fraction"),
        ({"restarts": {"cycle": 0}}, r"scheduler.restarts.cycle: .*longer than 0"),
        ({"restarts": {"growth": 0.5}}, r"scheduler.restarts.growth: got 0.5"),
    ],
)
def test_invalid_lengths(node, sentence):
    (problem,) = check(
        {"_target_": "neuro.training.schedules.Cosine", **node}, Schedule, "scheduler"
    )
    assert ConfigError(problem).problems == [problem]
    with pytest.raises(ConfigError, match=sentence):
        build({"_target_": "neuro.training.schedules.Cosine", **node}, Schedule, "scheduler")


def test_a_warmup_that_takes_the_whole_phase_is_a_problem():
    schedule = Cosine(warmup=Length(steps=50))
    assert list(schedule.problems(Span(51, 10))) == []
    (problem,) = schedule.problems(Span(50, 10))
    assert problem.startswith("warmup: takes 50 updates, and the phase has only 50")


# -- closed forms, and torch's ----------------------------------------------------------------


def test_constant():
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]


def test_linear():
    assert factors(Linear(min_factor=0.2), 5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    expected = rates(
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=9), 10
    )
    assert factors(Linear(min_factor=0.2), 10) == pytest.approx(expected)


def test_linear_in_log_space_multiplies_by_the_same_each_time():
    values = factors(Linear(min_factor=1e-4, log_space=True), 5)
    assert values == pytest.approx([1.0, 1e-1, 1e-2, 1e-3, 1e-4])
    with pytest.raises(ValueError, match="needs min_factor > 0"):
        Linear(min_factor=0.0, log_space=True)


def test_exponential_is_torchs_with_the_rate_that_reaches_the_end():
    gamma = 0.05 ** (1 / 19)
    expected = rates(lambda o: lr_scheduler.ExponentialLR(o, gamma), 20)
    values = factors(Exponential(end_factor=0.05), 20)
    assert values == pytest.approx(expected)
    assert values[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_polynomial_is_torchs(power):
    expected = rates(lambda o: lr_scheduler.PolynomialLR(o, total_iters=9, power=power), 10)
    assert factors(Polynomial(power), 10) == pytest.approx(expected)
    lifted = factors(Polynomial(power, min_factor=0.3), 10)
    assert lifted == pytest.approx([0.3 + 0.7 * value for value in expected])


def test_rex_in_closed_form():
    values = factors(Rex(min_factor=0.1), 11)
    done = [i / 10 for i in range(11)]
    assert values == pytest.approx([0.1 + 0.9 * (1 - t) / (0.5 + 0.5 * (1 - t)) for t in done])


def test_cosine_in_closed_form():
    values = factors(Cosine(warmup=part(0.2), min_factor=0.1), 10)
    assert values[:2] == [0.5, 1.0]  # two updates of warm-up, the first above zero
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 7)) for i in range(8)]
    assert values[2:] == pytest.approx(expected)


def test_cosine_reaches_its_end_at_the_last_update_where_torch_would_one_later():
    expected = rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=9, eta_min=0.2), 10)
    assert factors(Cosine(part(0.0), min_factor=0.2), 10) == pytest.approx(expected)


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("first", [2, 5, 7])
def test_restarts_are_torchs(growth, first):
    expected = rates(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, first, growth, eta_min=0.1), 200
    )
    restarts = Restarts(cycle=cycle(first), growth=growth)
    assert factors(Cosine(part(0.0), 0.1, restarts), 200) == pytest.approx(expected)
    sgdr = SGDR(cycle(first), t_mul=growth, min_factor=0.1)
    assert factors(sgdr, 200) == pytest.approx(expected)


def test_cycles_of_any_growth_follow_one_another():
    restarts = Restarts(cycle=cycle(10), growth=1.3)
    lengths = [10 * 1.3**k for k in range(6)]
    starts = [0.0, *itertools.accumulate(lengths)]
    for step in range(math.floor(starts[-1])):
        k = max(i for i, start in enumerate(starts) if start <= step + 1e-9)
        expected = k, pytest.approx((step - starts[k]) / lengths[k])
        assert restarts.position(step, Span(1000, 1)) == expected


def test_cosines_lose_amplitude_and_sgdr_its_peak():
    restarts = Restarts(cycle=cycle(10), decay=0.5)
    values = factors(Cosine(part(0.0), 0.2, restarts), 30)
    assert values[0::10] == pytest.approx([1.0, 0.2 + 0.8 * 0.5, 0.2 + 0.8 * 0.25])
    values = factors(SGDR(cycle(10), m_mul=0.5, min_factor=0.3), 30)
    assert values[0::10] == pytest.approx([1.0, 0.5, 0.3])
    assert min(values) >= 0.3


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("half", [1, 4, 10])
def test_cyclical_is_torchs(mode, half):
    expected = rates(
        lambda o: lr_scheduler.CyclicLR(
            o, base_lr=0.2, max_lr=1.0, step_size_up=half, mode=mode, gamma=0.97,
            cycle_momentum=False,
        ),
        60,
    )  # fmt: skip
    own = Cyclical(mode, cycle(2 * half), min_factor=0.2, gamma=0.97)
    assert factors(own, 60) == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("total, pct", [(20, 0.3), (10, 0.5), (37, 0.1)])
def test_onecycle_is_torchs(shape, total, pct):
    expected = rates(
        lambda o: lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=total, pct_start=pct, div_factor=10.0,
            final_div_factor=5.0, anneal_strategy={"cosine": "cos", "linear": "linear"}[shape],
            cycle_momentum=False,
        ),
        total,
    )  # fmt: skip
    # torch divides the start, ours the peak: 10 * 5 = 50
    own = OneCycle(pct, div_factor=10.0, final_div_factor=50.0, rise=shape, fall=shape)
    assert factors(own, total) == pytest.approx(expected)


def test_the_legs_of_onecycle_have_separate_shapes():
    def legs(rise, fall):
        values = factors(OneCycle(0.5, rise=rise, fall=fall), 40)
        return values[:20], values[20:]

    mixed, line, wave = legs("linear", "cosine"), legs("linear", "linear"), legs("cosine", "cosine")
    assert mixed == (line[0], wave[1])
    assert line[0] != wave[0] and line[1] != wave[1]


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        (Linear(), [Linear(part(0.5)), Linear(min_factor=0.5), Linear(log_space=True)]),
        (Cosine(), [Cosine(part(0.3)), Cosine(min_factor=0.5), Cosine(restarts=Restarts())]),
        (
            Cosine(restarts=Restarts()),
            [
                Cosine(restarts=Restarts(cycle=cycle(7))),
                Cosine(restarts=Restarts(growth=2.0)),
                Cosine(restarts=Restarts(decay=0.5)),
            ],
        ),
        (
            OneCycle(),
            [OneCycle(0.5), OneCycle(div_factor=2.0), OneCycle(final_div_factor=2.0),
             OneCycle(rise="cosine"), OneCycle(fall="linear")],
        ),
        (
            Cyclical(),
            [Cyclical("triangular2"), Cyclical(cycle=cycle(10)), Cyclical(min_factor=0.5)],
        ),
        (Cyclical("exp_range"), [Cyclical("exp_range", gamma=0.9)]),
        (
            SGDR(),
            [SGDR(cycle(7)), SGDR(t_mul=2.0), SGDR(m_mul=0.5), SGDR(min_factor=0.5),
             SGDR(warmup=part(0.5))],
        ),
        (Polynomial(), [Polynomial(1.0), Polynomial(warmup=part(0.5)), Polynomial(min_factor=0.5)]),
        (Exponential(), [Exponential(0.5), Exponential(warmup=part(0.5))]),
        (Rex(), [Rex(part(0.5)), Rex(min_factor=0.5)]),
    ],
)  # fmt: skip
def test_every_option_has_an_effect(base, changed):
    for other in changed:
        assert factors(base, 40) != factors(other, 40)
