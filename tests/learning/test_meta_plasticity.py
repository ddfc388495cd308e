"""The controller of learning rates: improvement, bounds, and resume."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from neuro.errors import Interrupted
from neuro.io import checkpoint
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.meta_plasticity import Observation, RateController
from neuro.learning.objective import Objective
from neuro.learning.rules.plasticity import BCM, STDP
from neuro.training.callbacks.meta_plasticity import MetaPlasticity
from tests.fakes import FakeData, linear, make_setup, make_trainer, rows
from tests.networks import network

LOW, HIGH = 0.01, 10.0


def made_task(best, controller, steps=400, seed=0):
    """A loss with 1 % noise that falls by up to 2 % a step, fastest at the rate `best`.

    Without a controller, the rate stays at the first choice. Returns the last loss.
    """
    noise = torch.Generator().manual_seed(seed)
    loss, rate = 1.0, math.sqrt(LOW * HIGH)
    for _ in range(steps):
        fall = 0.02 * math.exp(-(math.log(rate / best) ** 2) / 2)
        loss *= 1 - fall + 0.01 * torch.randn((), generator=noise).item()
        if controller is not None:
            (rate,) = controller.step(Observation(-loss, loss, rate))
    return loss


@pytest.mark.parametrize("best", [0.05, 3.0])
def test_rates_change_for_the_better(best):
    controller = RateController(1, LOW, HIGH, window=20)
    adapted = made_task(best, controller)
    assert adapted < 0.2 * made_task(best, None)
    (found,) = controller.expected()
    start = math.sqrt(LOW * HIGH)
    assert abs(math.log(found / best)) < 0.5 * abs(math.log(start / best))


def test_each_rule_has_a_rate_of_its_own():
    """Only the first rate has an effect; it approaches the optimum of 3."""
    controller, loss, rates = RateController(2, LOW, HIGH, window=20), 1.0, [0.3, 0.3]
    for _ in range(300):
        loss *= 1 - 0.02 * math.exp(-(math.log(rates[0] / 3) ** 2) / 2)
        rates = controller.step(Observation(-loss, loss, 0.0))
    assert controller.expected()[0] > 1.0


def test_rates_keep_their_bounds():
    controller = RateController(3, 0.5, 2.0, spread=8.0)
    for i in range(50):
        rates = controller.step(Observation(0.0, float(i % 7), 0.1))
        assert len(rates) == 3 and all(0.5 <= rate <= 2.0 for rate in rates)


def test_it_reads_the_last_observations():
    one, other = (RateController(1, LOW, HIGH, window=5) for _ in range(2))
    for i in range(20):
        one.step(Observation(0.0, 1.0 + i % 3, 0.1))
    assert len(one.observations) == 5
    other.load_state(copy.deepcopy(one.state()))
    assert other.step(Observation(0.5, 0.5, 0.2)) == one.step(Observation(0.5, 0.5, 0.2))


# -- the callback ---------------------------------------------------------------------------------


def trainer(directory, state=None, **options):
    model = network("lif", readout="linear")
    terms = {"ce": CrossEntropy(), "stdp": STDP(2.0), "bcm": BCM()}
    Objective(terms).check(model, FakeData().spec("fast"))
    return make_trainer(
        directory, model, terms=terms, phases={"one": {"task": "fast", "steps": 8}},
        callbacks={"meta": MetaPlasticity()}, state=state, log={"steps": 1}, **options,
    )  # fmt: skip


def logged(directory, name):
    return [row[name] for row in rows(directory) if name in row]


def test_rules_are_multiplied_and_a_resumed_run_goes_on(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.fit()
    rates = logged(tmp_path / "whole", "meta_plasticity/stdp")
    assert len(rates) == 8 and len(set(rates)) == 8
    assert whole.objective.named_terms()["stdp"].weight == pytest.approx(2.0 * rates[-1])
    changes = logged(tmp_path / "whole", "train/stdp/conv1/weight_change")
    assert changes[1] == pytest.approx(changes[0] * rates[0], rel=0.5)  # other samples
    stopped = trainer(tmp_path / "part", interrupted=lambda: stopped.progress.step >= 4)
    with pytest.raises(Interrupted):
        stopped.fit()
    state = checkpoint.load(tmp_path / "part" / "checkpoints" / "last.safetensors")
    trainer(tmp_path / "part", state).fit(state)
    assert logged(tmp_path / "part", "meta_plasticity/stdp") == rates


def test_missing_rules_are_refused():
    setup = make_setup(linear(), terms={"ce": CrossEntropy(), "stdp": STDP()})
    assert not list(MetaPlasticity().check(setup))
    (problem,) = MetaPlasticity(rules=("sdtp",)).check(setup)
    assert "no plasticity rule 'sdtp'" in problem and "Did you mean 'stdp'?" in problem
    (problem,) = MetaPlasticity().check(make_setup(linear()))
    assert "add one, as in stdp" in problem
