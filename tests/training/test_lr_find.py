"""The learning-rate finder: the range test, absence of side effects, optimizer.lr=auto."""

from __future__ import annotations

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from pydantic import ValidationError

from neuro.analysis.plots import rates as rate_plots
from neuro.config.trainer import LRFindSettings
from neuro.errors import ConfigError, Interrupted
from neuro.io import checkpoint
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.runtime import randomness
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.calibration import ThresholdCalibration
from neuro.training.lr_find import range_test
from tests.fakes import ADAMW, COSINE, SGD, linear, make_trainer, rows, same_state, series
from tests.networks import network

AUTO = {**SGD, "lr": "auto"}
SHORT = {"min_lr": 1e-4, "max_lr": 10.0, "steps": 40, "smoothing": 0.6}


# -- the sweep --------------------------------------------------------------------------------


def valley(rate):
    """A loss that falls most steeply at 0.01 and explodes above 1."""
    return 2 - math.tanh(2 * math.log10(rate / 0.01)) + (100 * rate if rate > 1 else 0)


def test_rates_rise_by_the_same_factor():
    rates = list(LRFindSettings().rates())
    assert len(rates) == 100
    assert (rates[0], rates[-1]) == pytest.approx((1e-7, 10.0))
    ratios = np.diff(np.log(rates))
    assert ratios == pytest.approx(np.full(99, ratios[0]))


def test_the_rate_of_steepest_descent_is_suggested():
    found = range_test(LRFindSettings(smoothing=0.0), valley)
    assert found.suggestion == pytest.approx(0.01, rel=0.1)
    assert found.conservative == (found.suggestion / 10, found.suggestion)
    assert found.aggressive == (found.suggestion, 2 * found.suggestion)
    assert found.losses == found.smoothed
    text = "\n".join(found.lines())
    for number in (found.suggestion, found.suggestion / 10, 2 * found.suggestion):
        assert f"{number:.3g}" in text


def test_the_running_mean_is_corrected_for_its_start():
    losses = iter([1.0, 3.0, 2.0, 5.0, 4.0] * 2)
    found = range_test(
        LRFindSettings(steps=10, smoothing=0.9, burn_in=0), lambda rate: next(losses)
    )
    for i in range(10):
        weights = 0.9 ** np.arange(i, -1, -1)
        mean = np.average(found.losses[: i + 1], weights=weights)
        assert found.smoothed[i] == pytest.approx(mean)


def test_it_stops_when_the_loss_explodes_or_is_not_finite():
    found = range_test(LRFindSettings(smoothing=0.0), valley)
    assert found.rates[-1] < 1.3
    assert found.losses[-1] > 4 * min(found.losses) >= found.losses[-2]
    patient = range_test(LRFindSettings(smoothing=0.0, stop_factor=400.0), valley)
    assert len(patient.rates) > len(found.rates)
    found = range_test(LRFindSettings(), lambda rate: 1.0 if rate < 1e-3 else math.nan)
    assert found.rates[-1] < 1e-3
    assert len(found.rates) == len(found.losses) == len(found.smoothed)


def test_burn_in_precedes_the_sweep():
    seen = []

    def update(rate):
        seen.append(rate)
        return 100.0 / len(seen) ** 2 + valley(rate)

    found = range_test(LRFindSettings(smoothing=0.0, burn_in=7), update)
    assert seen[:8] == pytest.approx([1e-7] * 8)
    assert len(found.rates) == len(seen) - 7
    assert found.suggestion == pytest.approx(0.01, rel=0.2)
    at_once = range_test(LRFindSettings(smoothing=0.0, burn_in=0), valley)
    assert at_once.rates == range_test(LRFindSettings(smoothing=0.0), valley).rates


def test_noise_alone_gives_no_suggestion():
    noise = iter(np.random.default_rng(0).normal(1.0, 0.3, 400))
    assert range_test(LRFindSettings(), lambda rate: next(noise)).suggestion is None
    found = range_test(LRFindSettings(), lambda rate: valley(rate) + 0.1 * next(noise))
    assert 0.003 < found.suggestion < 1.0


@pytest.mark.parametrize("loss", [lambda rate: rate, lambda rate: 1.0, lambda rate: math.nan])
def test_a_loss_that_does_not_fall_gives_no_suggestion(loss):
    found = range_test(LRFindSettings(), loss)
    assert found.suggestion is None
    assert found.conservative is None and found.aggressive is None
    assert "no rate to suggest" in found.lines()[0]


def test_edges_are_skipped():
    """A fall at the first or last rates gives no suggestion there."""
    settings = LRFindSettings(smoothing=0.0)
    rates = list(settings.rates())
    early = range_test(
        settings, lambda rate: 2.0 - 0.5 * (rate > rates[3]) - 0.1 * (rate > rates[50])
    )
    assert early.suggestion == pytest.approx(rates[50], rel=0.3)
    late = range_test(
        settings, lambda rate: 2.0 - 0.5 * (rate > rates[98]) - 0.1 * (rate > rates[50])
    )
    assert late.suggestion == pytest.approx(rates[50], rel=0.3)


def test_invalid_settings():
    with pytest.raises(ValidationError, match=r"min_lr \(1.0\) must be below max_lr"):
        LRFindSettings(min_lr=1.0, max_lr=0.5)
    for wrong in ({"steps": 3}, {"smoothing": 1.0}, {"stop_factor": 1.0}, {"min_lr": 0.0}):
        with pytest.raises(ValidationError):
            LRFindSettings(**wrong)


def test_the_plot():
    found = range_test(LRFindSettings(smoothing=0.5), valley)
    (ax,) = rate_plots.range_test(*found[:3], found.suggestion).axes
    assert ax.get_xscale() == "log"
    assert any(f"{found.suggestion:.3g}" in t.get_text() for t in ax.get_legend().get_texts())
    (ax,) = rate_plots.range_test([], [], []).axes  # the very first loss was not finite


# -- no side effects --------------------------------------------------------------------------


class Counting(Callback):
    """Count batches and draw random numbers."""

    def __init__(self):
        self.seen = 0

    def on_batch(self, trainer, batch):
        self.seen += 1
        torch.rand(3)
        return batch

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def everything(trainer):
    """All state that training depends on."""
    optimizer = trainer.optimizer.optimizer
    return copy.deepcopy(
        {
            "weights": {n: p.detach() for n, p in trainer.model.named_parameters()},
            "buffers": dict(trainer.model.named_buffers()),
            "grads": [p.grad for p in trainer.model.parameters()],
            "objective": trainer.objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": trainer.fabric.strategy.precision.state_dict(),
            "progress": trainer.progress,
            "meter": bool(trainer.meter),
            "rng": randomness.capture(),
            "callbacks": {name: cb.state_dict() for name, cb in trainer.callbacks.items()},
        }
    )


def assert_equal(one, other, path=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}[{i}]")
    else:
        assert one == other, path


LOCAL = {"v": GateVariance, "h": Hebbian, "d": Discriminant}
SYSTEMS = {
    "gradient": lambda: (linear(hidden=3), None, ADAMW, {}),
    "momentum": lambda: (linear(), None, {**SGD, "momentum": 0.9}, {}),
    "local rule": lambda: (
        network("ltgate"),
        {name: term() for name, term in LOCAL.items()},
        SGD,
        {"calibration": ThresholdCalibration(batches=2, rounds=1)},
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_search_leaves_everything_as_it_was(system, accumulate, tmp_path):
    model, terms, optimizer, callbacks = SYSTEMS[system]()
    trainer = make_trainer(
        tmp_path, model, terms=terms, optimizer=optimizer, accumulate=accumulate, lr_find=SHORT,
        callbacks={**callbacks, "counting": Counting()},
    )  # fmt: skip
    trainer.find_lr()  # enters the phase
    before = everything(trainer)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = []
    update = trainer.update

    def watched(group):
        update(group)
        moved.append(not same_state(weights, dict(model.named_parameters())))

    trainer.update = watched
    found = trainer._find_lr()
    assert any(moved)  # it updated the weights
    assert (
        len(found.rates) <= len(moved) - 20 <= len(found.rates) + 1
    )  # the last update may have failed
    assert_equal(everything(trainer), before)
    assert not rows(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_the_loss_is_the_reported_one(tmp_path):
    """For local rules this is the task loss, not their pseudo-loss."""
    model, terms, optimizer, callbacks = SYSTEMS["local rule"]()
    trainer = make_trainer(
        tmp_path, model, terms=terms, optimizer=optimizer, lr_find={**SHORT, "burn_in": 0},
        callbacks=callbacks,
    )  # fmt: skip
    found = trainer.find_lr()
    batch = next(trainer._on_device(trainer.phase.loader.batches(0)))
    assert found.losses[0] == pytest.approx(float(trainer.step(batch).task.mean), rel=1e-5)


def test_the_loss_scale_may_decrease_first(tmp_path):
    """An overflow of the first 16-bit update does not count as divergence."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-60)
    fabric = Fabric(
        accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    )
    trainer = make_trainer(tmp_path, linear(), fabric=fabric, lr_find=SHORT, max_skipped=5)
    found = trainer.find_lr()
    assert len(found.rates) > 10
    assert scaler.get_scale() == 2.0**120
    assert trainer.progress.skipped == 0


# -- optimizer.lr=auto ------------------------------------------------------------------------

PHASES = {"one": {"task": "fast", "epochs": 3}, "two": {"task": "slow", "epochs": 2}}


def run(directory, state=None, optimizer=AUTO, **more):
    model = linear(hidden=4)
    trainer = make_trainer(
        directory, model, phases=PHASES, optimizer=optimizer, scheduler=COSINE, state=state,
        lr_find=SHORT, log={"steps": 1}, checkpoint={"steps": 1}, keep=99, **more,
    )  # fmt: skip
    return trainer, trainer.fit(state), model.state_dict()


def test_auto_trains_with_what_it_finds(tmp_path):
    trainer, report, weights = run(tmp_path / "auto")
    assert list(report.found_lr) == ["one", "two"]
    logged = dict(series(tmp_path / "auto", "train/lr"))
    suggested = series(tmp_path / "auto", "lr_find/suggestion")
    assert suggested == [(0, report.found_lr["one"]), (12, report.found_lr["two"])]
    for phase, first in zip(trainer.plan, (1, 13), strict=True):
        for i in range(phase.total_steps):
            peak = report.found_lr[phase.name]
            assert logged[first + i] == pytest.approx(peak * phase.schedule.factor(i, phase.span))
    for phase in PHASES:
        picture = (tmp_path / f"auto/plots/lr_find-{phase}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    phases = {
        name: {**node, "optimizer": {"lr": report.found_lr[name]}} for name, node in PHASES.items()
    }
    model = linear(hidden=4)
    make_trainer(tmp_path / "given", model, phases=phases, optimizer=SGD, scheduler=COSINE).fit()
    assert same_state(model.state_dict(), weights)  # the search has no side effects


def test_a_resumed_run_does_not_search_again(tmp_path, monkeypatch):
    _, report, weights = run(tmp_path / "whole")
    metrics = rows(tmp_path / "whole")
    searches = []
    monkeypatch.setattr(
        "neuro.training.lr_find.range_test",
        lambda settings, update: searches.append(1) or range_test(settings, update),
    )
    for step, again in ((7, 1), (12, 1), (13, 0)):
        part = tmp_path / str(step)
        shutil.copytree(tmp_path / "whole", part)
        state = checkpoint.load(part / "checkpoints" / f"step-{step:08d}.safetensors")
        searches.clear()
        _, second, resumed = run(part, state)
        assert len(searches) == again, step  # for phase two, whose rate was not found yet
        assert second == report
        assert same_state(resumed, weights)
        assert rows(part) == metrics


def test_groups_keep_their_own_rates(tmp_path):
    optimizer = {**AUTO, "groups": {"last.*": {"lr": 0.004}}}
    trainer, report, _ = run(tmp_path, optimizer=optimizer)
    assert trainer.peaks == [report.found_lr["two"]] * 2 + [0.004] * 2


def test_auto_without_a_suggestion_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "neuro.training.lr_find.range_test", lambda s, _: range_test(s, lambda rate: rate)
    )
    with pytest.raises(ConfigError, match=r"optimizer.lr=auto: The loss did not fall.*a number"):
        run(tmp_path)


def test_a_search_can_be_interrupted(tmp_path):
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted, match="search for a learning rate"):
        run(tmp_path, interrupted=lambda: next(asked))
