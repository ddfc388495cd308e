"""Curricula: resolution to complete plans, or an error with all problems."""

from __future__ import annotations

import pytest

from neuro.config.trainer import Interval
from neuro.data.mixture import ConcatLoader
from neuro.data.replay import ReplayLoader
from neuro.errors import ConfigError
from neuro.training.optimizers import SGD, AdamW, RMSprop
from neuro.training.phases import parse_phases, resolve
from neuro.training.schedules import Constant, Cosine
from tests import fakes
from tests.fakes import ADAMW, CONSTANT, FakeData, linear, make_settings

TASKS = ("fast", "slow")


def plan(phases, accumulate=1, batch_size=4, optimizer=ADAMW, seed=0):
    data = FakeData(batch_size)
    parsed = parse_phases(phases, optimizer, CONSTANT, data.tasks)
    return resolve(parsed, data=data, model=linear(hidden=2), accumulate=accumulate, seed=seed)


def check(**phase):
    with pytest.raises(ConfigError) as caught:
        parse_phases({"p": {"task": "fast", "epochs": 1, **phase}}, ADAMW, CONSTANT, TASKS)
    return caught.value.problems


# -- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length, accumulate, epochs, per_epoch, total",
    [
        ({"epochs": 3}, 1, 3, 4, 12),  # 14 samples in batches of 4
        ({"epochs": 3}, 3, 3, 2, 6),  # groups of 3 and 1
        ({"epochs": 3}, 4, 3, 1, 3),
        ({"steps": 9}, 1, 3, 4, 9),
        ({"steps": 9, "epochs": None}, 3, 5, 2, 9),
        ({"steps": 1}, 1, 1, 4, 1),
    ],
)
def test_step_counts(length, accumulate, epochs, per_epoch, total):
    (phase,) = plan({"p": {"task": "fast", **length}}, accumulate)
    assert (phase.epochs, phase.steps_per_epoch, phase.total_steps) == (epochs, per_epoch, total)


def test_a_phase_is_over_by_epochs_or_by_steps():
    by_epochs, by_steps = plan(
        {"a": {"task": "fast", "epochs": 2}, "b": {"task": "fast", "steps": 5}}
    )
    assert not by_epochs.over(1, 99) and by_epochs.over(2, 0)
    assert not by_steps.over(99, 4) and by_steps.over(0, 5)


# -- contents of a plan -----------------------------------------------------------------------


def test_overrides_change_one_phase():
    one, two = plan(
        {
            "a": {"task": "fast", "epochs": 1},
            "b": {
                "task": "slow", "epochs": 1,
                "optimizer": {"lr": 0.5}, "scheduler": {**fakes.COSINE, "warmup": 0.5},
            },
        }
    )  # fmt: skip
    assert (one.optimizer.lr, two.optimizer.lr) == (0.01, 0.5)
    assert isinstance(two.optimizer, AdamW)
    assert isinstance(one.schedule, Constant)
    assert isinstance(two.schedule, Cosine) and two.schedule.warmup.fraction == 0.5


def test_an_override_may_name_another_class():
    phases = {"a": {"task": "fast", "epochs": 1, "optimizer": dict(fakes.SGD)}}
    assert isinstance(plan(phases)[0].optimizer, SGD)


def test_another_class_starts_from_its_own_defaults():
    changes = {"_target_": "neuro.training.optimizers.RMSprop", "momentum": 0.5}
    phases = {"a": {"task": "fast", "epochs": 1, "optimizer": changes}}
    (alone,) = plan(
        phases, optimizer={**ADAMW, "betas": [0.5, 0.9]}
    )  # an option that the class does not have
    assert isinstance(alone.optimizer, RMSprop)
    assert (alone.optimizer.lr, alone.optimizer.momentum) == (0.001, 0.5)


def test_tasks_and_evaluation():
    one, two = plan(
        {
            "a": {"task": ["fast", "slow", "fast"], "epochs": 1, "evaluate": ["slow"]},
            "b": {"task": "slow", "epochs": 1},
        }
    )
    assert one.tasks == ("fast", "slow") and one.task == "fast+slow"
    assert isinstance(one.loader, ConcatLoader) and len(one.loader) == 8
    assert one.evaluate == ("slow",)
    assert two.evaluate == ("fast", "slow")


def test_all_evaluates_every_task_of_the_curriculum_from_the_first_phase_on():
    one, two = plan({"a": {"task": "slow", "epochs": 1}, "b": {"task": "fast", "epochs": 1}})
    assert one.evaluate == two.evaluate == ("slow", "fast")
    (alone,) = plan({"a": {"task": "slow", "epochs": 1}})
    assert alone.evaluate == ("slow",)


def test_replay_draws_on_earlier_phases_only():
    replay = {"samples": 5, "share": 0.5}
    one, two = plan(
        {
            "a": {"task": "fast", "epochs": 1, "replay": replay},
            "b": {"task": "slow", "epochs": 1, "replay": replay},
        }
    )
    assert one.loader is one.own
    assert isinstance(two.loader, ReplayLoader)
    assert len(two.loader) == two.steps_per_epoch == 8
    labels = {y for b in two.loader.batches(0) for y in b.targets.tolist()}
    assert labels == {0, 1, 2, 3}
    assert {y for b in two.own.batches(0) for y in b.targets.tolist()} == {2, 3}


def test_invalid_replay():
    first = {"task": "fast", "epochs": 1}
    for replay, message in (
        ({"capacity": 1}, "phase.b.replay.capacity: 1 samples are kept, fewer than the 2 classes"),
        ({"samples": 1, "choice": "balanced"}, "phase.b.replay.samples: 1 samples are kept"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan({"a": first, "b": {**first, "replay": replay}})
    with pytest.raises(ConfigError, match="phase.b.replay: there is no earlier phase"):
        plan({"b": {**first, "replay": {}}})


def test_flags_and_frozen_parameters():
    one, two = plan(
        {
            "a": {"task": "fast", "epochs": 1, "flags": {"scale": 2.0}, "freeze": ["first.*"]},
            "b": {"task": "slow", "epochs": 1, "flags": {"lifelong": True}},
        }
    )
    assert one.flags == {"scale": 2.0}
    assert two.flags == {"scale": 2.0, "lifelong": True}
    assert one.frozen("first.weight") and not one.frozen("last.weight")
    assert not two.frozen("first.weight")


def test_carry():
    one, two = plan(
        {
            "a": {"task": "fast", "epochs": 1, "carry": {"weights": "best", "optimizer": True}},
            "b": {"task": "slow", "epochs": 1},
        }
    )
    assert (one.carry_weights, one.carry_optimizer) == ("best", True)
    assert (two.carry_weights, two.carry_optimizer) == ("last", False)


def test_orders_differ_between_phases_and_follow_the_seed():
    phases = {"a": {"task": "fast", "epochs": 1}, "b": {"task": "fast", "epochs": 1}}

    def order(phase):
        return [
            y for batch in phase.loader.batches(0) for y in batch.inputs.flatten(1).sum(1).tolist()
        ]

    one, two = plan(phases)
    assert order(one) != order(two)
    assert order(one) == order(plan(phases)[0])
    assert order(one) != order(plan(phases, seed=1)[0])


# -- invalid curricula ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase, message",
    [
        ({"epochs": 0}, "phase.p.epochs: got 0; input should be greater than 0"),
        ({"epochs": 1.5}, "phase.p.epochs"),
        ({"epochs": None}, "phase.p: give either epochs or steps."),
        ({"steps": 5}, "phase.p: give either epochs or steps."),
        ({"task": "fats"}, "no task 'fats'. Its tasks: fast, slow. Did you mean 'fast'?"),
        ({"task": ["fast", "x"]}, "phase.p.task: the data has no task 'x'"),
        ({"task": []}, "phase.p.task"),
        ({"evaluate": ["slwo"]}, "phase.p.evaluate: the data has no task 'slwo'"),
        ({"evaluate": []}, "phase.p.evaluate"),
        ({"taks": "fast"}, "phase.p.taks: unknown key"),
        ({"carry": {"weights": "bset"}}, "Did you mean 'best'?"),
        ({"carry": {"weigths": "best"}}, "phase.p.carry.weigths: unknown key. Allowed: weights"),
        ({"replay": {"share": 1.0}}, "phase.p.replay.share: got 1.0; input should be less than 1"),
        ({"replay": {"samples": 0}}, "phase.p.replay.samples"),
        ({"optimizer": {"lrr": 1.0}}, "phase.p.optimizer.lrr: unknown key"),
        ({"scheduler": {"warmup": 1.0}}, "phase.p.scheduler.warmup: unknown key"),
        ({"freeze": "first.*"}, "phase.p.freeze"),
    ],
)
def test_a_wrong_phase(phase, message):
    (problem,) = check(**phase)
    assert message in problem


def test_an_empty_curriculum():
    with pytest.raises(ConfigError, match=r"^phase: a curriculum needs at least one phase\.$"):
        parse_phases({}, ADAMW, CONSTANT, TASKS)


def test_all_phases_are_checked_before_any_is_built():
    phases = {"a": {"task": "x", "epochs": 1}, "b": {"task": "fast", "epochs": 0}}
    with pytest.raises(ConfigError) as caught:
        plan(phases)
    assert [p.split(":")[0] for p in caught.value.problems] == ["phase.a.task", "phase.b.epochs"]


def test_problems_found_with_the_model():
    phases = {
        "a": {"task": "fast", "epochs": 1, "freeze": ["frist.*"], "flags": {"lifelnog": True}},
        "b": {"task": "slow", "epochs": 1, "freeze": ["nothing"]},
    }
    with pytest.raises(ConfigError) as caught:
        plan(phases)
    one, two, three = caught.value.problems
    assert one.startswith("phase.a.freeze: no parameter matches 'frist.*'. The model has: first.w")
    assert two.endswith("Allowed: scale, lifelong. Did you mean 'lifelong'?")
    assert three.startswith("phase.b.freeze")


def test_problems_found_by_constructors():
    phases = {
        "a": {"task": "fast", "epochs": 1, "optimizer": {"nesterov": True}},
        "b": {"task": "slow", "epochs": 1, "optimizer": {"nesterov": True}, "freeze": ["x"]},
    }
    with pytest.raises(ConfigError) as caught:
        plan(phases, optimizer=fakes.SGD)
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "phase.a.optimizer", "phase.b.freeze", "phase.b.optimizer",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"^optimizer: nesterov=true needs momentum > 0$"):
        plan({"a": {"task": "fast", "epochs": 1}}, optimizer={**fakes.SGD, "nesterov": True})


def test_state_cannot_be_carried_to_another_kind_of_optimizer():
    phases = {
        "a": {"task": "fast", "epochs": 1, "carry": {"optimizer": True}},
        "b": {"task": "slow", "epochs": 1, "optimizer": dict(fakes.SGD)},
    }
    with pytest.raises(ConfigError, match=r"phase\.a\.carry\.optimizer: SGD of phase 'b' cannot"):
        plan(phases)


# -- settings ---------------------------------------------------------------------------------


def test_intervals():
    off, steps, epochs = Interval(), Interval(steps=3), Interval(epochs=2)
    assert not any(off.due(i, i, True) for i in range(9))
    assert [i for i in range(1, 9) if steps.due(i, None, False)] == [3, 6]
    assert [i for i in range(1, 9) if epochs.due(i, i, False)] == [2, 4, 6, 8]
    assert not epochs.due(2, None, False)
    assert steps.due(1, None, True) and epochs.due(1, None, True)


def test_better():
    up, down = make_settings(direction="max"), make_settings(direction="min")
    nan = float("nan")
    assert up.better(1, None) and down.better(1, None)
    assert up.better(2, 1) and not up.better(1, 1) and not up.better(0, 1)
    assert down.better(0, 1) and not down.better(1, 1) and not down.better(2, 1)
    assert not up.better(nan, None) and not up.better(nan, 0) and not down.better(nan, 0)
