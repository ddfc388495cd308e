"""Continual evaluation during training, and phases that start from the initial weights."""

from __future__ import annotations

import pytest
import torch

from neuro.experiment.rules import check_metrics, reported
from neuro.hardware.host import Host
from neuro.io import checkpoint
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.checks import check_callbacks
from neuro.training.callbacks.restart import Restart
from neuro.training.callbacks.stability import Stability
from tests.fakes import TWO_PHASES, FakeData, linear, make_setup, make_trainer, rows, series

THREE_PHASES = {**TWO_PHASES, "three": {"task": "fast", "epochs": 1}}


def fit(directory, callback, state=None, phases=TWO_PHASES, **settings):
    trainer = make_trainer(
        directory, linear(), callbacks={"it": callback}, phases=phases, state=state, **settings
    )
    return trainer, trainer.fit(state)


def test_the_stability_gap_is_the_drop_within_a_phase(tmp_path) -> None:
    _, report = fit(tmp_path, Stability(every_steps=1, split="test"))
    curve = [score for _, score in series(tmp_path, "stability/fast/accuracy")]
    assert len(curve) == 8 + 1  # updates of the second phase, and its last one
    start = report.phases[0].test["fast"]["accuracy"]
    assert curve[-1] == report.phases[1].test["fast"]["accuracy"]
    assert report.metrics["continual/min_acc"] == min(curve)
    assert report.metrics["continual/stability_gap"] == pytest.approx(start - min(start, *curve))
    assert report.metrics["continual/stability_gap"] > 0


def test_the_interval_and_the_data_of_continual_evaluation(tmp_path) -> None:
    noisy = FakeData(noise=1.0)
    fit(tmp_path / "a", Stability(every_steps=3, split="val"), data=noisy)
    steps = [step for step, _ in series(tmp_path / "a", "stability/fast/accuracy")]
    assert steps == [8 + 3, 8 + 6, 8 + 8]
    fit(tmp_path / "b", Stability(every_steps=3, split="test"), data=noisy)
    curves = [series(tmp_path / name, "stability/fast/accuracy") for name in "ab"]
    assert curves[0] != curves[1]


def test_a_task_that_is_learned_again_is_not_an_earlier_one(tmp_path) -> None:
    fit(tmp_path, Stability(every_steps=1), phases=THREE_PHASES)
    third = [row for row in rows(tmp_path) if row["step"] > 16]
    assert any("stability/slow/accuracy" in row for row in third)
    assert not any("stability/fast/accuracy" in row for row in third)


def test_a_resumed_run_measures_the_same_gap(tmp_path) -> None:
    settings = {"checkpoint": {"steps": 1}, "keep": 99}
    _, report = fit(tmp_path / "whole", Stability(2), phases=THREE_PHASES, **settings)
    for step in (3, 11, 17):
        path = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}.safetensors"
        _, again = fit(
            tmp_path / str(step), Stability(2), checkpoint.load(path), THREE_PHASES, **settings
        )
        for name in ("continual/min_acc", "continual/stability_gap"):
            assert again.metrics[name] == report.metrics[name]


def test_its_measures_can_be_the_objective(tmp_path) -> None:
    stability = Stability(every_steps=4)
    setup = make_setup(linear(), callbacks={"it": stability}, phases=TWO_PHASES)
    settings = setup.settings.model_copy(update={"objective": "continual/min_acc"})
    setup = setup._replace(settings=settings)
    assert not check_metrics(setup, reported(setup, Host()))
    _, report = fit(tmp_path, stability)
    names = {"continual/min_acc", "continual/stability_gap"}
    assert set(stability.reports(setup)) == names <= set(report.metrics)

    alone = setup._replace(callbacks={})
    (problem,) = check_metrics(alone, reported(alone, Host()))
    assert problem.startswith("trainer.objective: this run produces no 'continual/min_acc'")
    assert not list(stability.reports(make_setup(linear())))


def test_one_phase_has_no_stability_gap() -> None:
    setup = make_setup(linear(), callbacks={"stability": Stability()})
    assert "callbacks.stability.every_steps: there are no tasks of earlier phases" in " ".join(
        check_callbacks(setup)
    )


class FirstWeights(Callback):
    """Record the weights at the start of each phase."""

    def __init__(self):
        self.found = []

    def on_phase_start(self, trainer):
        self.found.append(trainer.model.last.weight.detach().clone())


def test_every_phase_starts_from_the_initial_weights(tmp_path) -> None:
    look = FirstWeights()
    trainer = make_trainer(
        tmp_path, linear(), callbacks={"it": Restart(), "look": look}, phases=TWO_PHASES
    )
    report = trainer.fit()
    start = linear().last.weight
    assert [torch.equal(weights, start) for weights in look.found] == [True, True]
    assert not torch.equal(trainer.model.last.weight, start)
    own = [report.phases[i].test[task]["accuracy"] for i, task in enumerate(("fast", "slow"))]
    assert report.continual.learning_acc == pytest.approx(sum(own) / 2)


def test_a_resumed_run_restarts_from_the_same_weights(tmp_path) -> None:
    settings = {"checkpoint": {"steps": 1}, "keep": 99}
    whole, _ = fit(tmp_path / "whole", Restart(), **settings)
    path = tmp_path / "whole" / "checkpoints" / "step-00000003.safetensors"
    again, _ = fit(tmp_path / "again", Restart(), checkpoint.load(path), **settings)
    assert torch.equal(again.model.last.weight, whole.model.last.weight)
