"""Averages of weights: values, absence of side effects, and checkpoints."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from torch import nn

from neuro.io import checkpoint
from neuro.learning.rules.ltgate import Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.training.callbacks.averaging import WeightAverage
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.early_stopping import EarlyStopping
from neuro.training.callbacks.ema import EMA
from neuro.training.callbacks.gradient_health import GradientHealth
from neuro.training.callbacks.quantisation import Quantisation
from neuro.training.callbacks.swa import SWA
from neuro.training.callbacks.weight_bounds import WeightBounds
from tests.fakes import (
    ADAMW,
    COSINE,
    SGD,
    TWO_PHASES,
    FakeData,
    Linear,
    linear,
    make_setup,
    make_trainer,
    rows,
    same_state,
    series,
)
from tests.networks import network
from tests.training.test_trainer import Sometimes

PLATEAU = {"_target_": "neuro.training.schedules.Plateau"}
FOUR = {"one": {"task": "fast", "epochs": 4}}  # of 4 updates each


def load(directory, name):
    return checkpoint.load(directory / "checkpoints" / f"{name}.safetensors")


class Weights(Callback):
    """Record the weights after every update and at the end of every epoch."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step(self, trainer, metrics):
        self.steps.append(trainer.model.last.weight.detach().clone())

    def on_epoch_end(self, trainer):
        self.epochs.append(trainer.model.last.weight.detach().clone())


def averaged(directory, average: WeightAverage, **options):
    """The average that a run saves, and the recorded weights."""
    seen = Weights()
    model = options.pop("model", None) or linear()
    trainer = make_trainer(
        directory, model, callbacks={"it": average, "seen": seen},
        **{"phases": FOUR, "optimizer": ADAMW, **options},
    )  # fmt: skip
    trainer.fit()
    path = directory / "checkpoints" / f"{average.name}.safetensors"
    return checkpoint.load(path)["model"]["last.weight"] if path.exists() else None, seen


@pytest.mark.parametrize(
    ("options", "first", "decays"),
    [
        ({}, 0, [(1 + n) / (10 + n) for n in range(15)]),
        ({"decay": 0.4}, 0, [min(0.4, (1 + n) / (10 + n)) for n in range(15)]),
        ({"decay": 0.9, "ramp": False}, 0, [0.9] * 15),
        ({"start_epoch": 2}, 8, [(1 + n) / (10 + n) for n in range(7)]),
        ({"start_step": 3}, 3, [(1 + n) / (10 + n) for n in range(12)]),
        ({"start_step": 3, "start_epoch": 3}, 12, [(1 + n) / (10 + n) for n in range(3)]),
    ],
)
def test_ema_is_the_recursion(tmp_path, options, first, decays):
    found, seen = averaged(tmp_path, EMA(**options))
    expected = seen.steps[first]
    for decay, weights in zip(decays, seen.steps[first + 1 :], strict=True):
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, seen.steps[-1])


def test_skipped_updates_do_not_count_for_the_ema(tmp_path):
    def model():
        made = linear()
        made.register_buffer("seen", torch.zeros(()))
        return made

    found = [
        averaged(
            tmp_path / str(bad), EMA(), model=model(), terms={"t": Sometimes({bad})},
            phases={"one": {"task": "fast", "steps": steps}},
        )[0]
        for bad, steps in ((0, 3), (2, 4))
    ]  # fmt: skip
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("options", "phases", "epochs"),
    [
        ({}, FOUR, [3]),
        ({"start_fraction": 0.5}, FOUR, [2, 3]),
        ({"start_epoch": 1}, FOUR, [1, 2, 3]),
        ({"start_epoch": 0, "every_epochs": 2}, FOUR, [0, 2]),
    ],
)
def test_swa_is_the_mean_of_the_ends_of_epochs(tmp_path, options, phases, epochs):
    found, seen = averaged(tmp_path, SWA(**options), phases=phases)
    torch.testing.assert_close(found, torch.stack([seen.epochs[i] for i in epochs]).mean(0))


def test_an_epoch_that_is_cut_short_counts_for_the_swa(tmp_path):
    phases = {"one": {"task": "fast", "steps": 10}}
    found, seen = averaged(tmp_path, SWA(start_fraction=0.5), phases=phases)
    torch.testing.assert_close(found, (seen.epochs[1] + seen.steps[-1]) / 2)


def test_swa_sets_its_own_learning_rate(tmp_path):
    options = {"phases": FOUR, "log": {"steps": 1}, "scheduler": COSINE}
    averaged(tmp_path / "a", SWA(start_fraction=0.5, lr=0.003), **options)
    averaged(tmp_path / "b", SWA(start_fraction=0.5), **options)
    rates, own = (dict(series(tmp_path / x, "train/lr")) for x in "ab")
    assert [rates[step] for step in range(9, 17)] == [pytest.approx(0.003)] * 8
    assert [rates[step] for step in range(1, 9)] == [own[step] for step in range(1, 9)]
    assert own[16] < 1e-9


@pytest.mark.parametrize("average", [EMA, partial(SWA, start_epoch=1)])
def test_a_final_average_is_what_the_phase_ends_with(average, tmp_path):
    ended = {}
    for final in (False, True):
        directory = tmp_path / str(final)
        found, seen = averaged(directory, average(final=final))
        weights = load(directory, "one-final")["model"]["last.weight"]
        assert torch.equal(weights, found if final else seen.steps[-1])
        ended[final] = rows(directory)[-1]
    assert ended[True] != ended[False]


class Normalised(Linear):
    """A linear model of normalised frames."""

    def __init__(self, spec):
        super().__init__(spec)
        self.norm = nn.BatchNorm1d(36, momentum=0.5)

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        flat = self.norm(inputs.flatten(0, 1).flatten(1)).view(*inputs.shape[:2], -1)
        return super().forward(flat, dt_ms=dt_ms)


def test_swa_recalibrates_normalisation(tmp_path):
    torch.manual_seed(0)
    model = Normalised(FakeData().spec("fast"))
    averaged(tmp_path, SWA(), model=model, data=FakeData(batch_size=7))
    images = FakeData().splits["fast", "train"][0].flatten(1)
    saved, raw = load(tmp_path, "swa")["model"], load(tmp_path, "last")["model"]
    torch.testing.assert_close(saved["norm.running_mean"], images.mean(0))  # batches of equal size
    assert not torch.allclose(raw["norm.running_mean"], images.mean(0))
    assert model.norm.momentum == 0.5
    assert torch.equal(model.norm.running_mean, raw["norm.running_mean"])


def test_averages_do_not_change_training(tmp_path):
    """Weights, checkpoints and metrics are bit-identical to those of a run without them."""
    plain, both = linear(hidden=3), linear(hidden=3)
    options = {"phases": TWO_PHASES, "optimizer": ADAMW, "monitor": "val/loss", "direction": "min"}
    make_trainer(tmp_path / "plain", plain, **options).fit()
    callbacks = {"ema": EMA(), "swa": SWA(start_fraction=0.5)}
    make_trainer(tmp_path / "both", both, callbacks=callbacks, **options).fit()
    assert same_state(plain.state_dict(), both.state_dict())
    for name in ("best", "last", "one-final"):
        kept = [load(tmp_path / run, name)["model"] for run in ("plain", "both")]
        assert same_state(*kept), name
    averages = ("val_ema/", "val_swa/")
    logged = [
        {key: value for key, value in row.items() if not key.startswith(averages)}
        for row in rows(tmp_path / "both")
    ]
    assert [row for row in logged if row.keys() != {"step"}] == rows(tmp_path / "plain")
    names = {path.stem for path in (tmp_path / "both" / "checkpoints").iterdir()}
    assert names >= {"ema", "one-ema", "two-ema", "swa", "one-swa", "two-swa"}
    for average in ("ema", "swa"):
        first, second = (load(tmp_path / "both", f"{phase}-{average}") for phase in ("one", "two"))
        assert same_state(load(tmp_path / "both", average)["model"], second["model"])
        assert not same_state(first["model"], second["model"])


def test_the_ema_is_validated_beside_the_weights(tmp_path):
    data = FakeData(noise=1.0)
    trainer = make_trainer(
        tmp_path, linear(), data=data, phases=FOUR, callbacks={"e": EMA(), "s": SWA()}
    )
    report = trainer.fit()
    raw, ema = (dict(series(tmp_path, f"{name}/loss")) for name in ("val", "val_ema"))
    assert raw.keys() == ema.keys() == {4, 8, 12, 16}
    assert raw != ema
    assert list(dict(series(tmp_path, "val_swa/loss"))) == [
        16
    ]  # once, although it is saved there too
    for name in ("ema", "swa"):
        model = linear()
        model.load_state_dict(load(tmp_path, name)["model"])
        again = make_trainer(tmp_path / name, model, data=data)
        assert again.validate()["val/loss"] == pytest.approx(report.metrics[f"val_{name}/loss"])


KINDS = {
    "val": lambda: None,
    "val_ema": lambda: EMA(decay=0.5, ramp=False, start_epoch=1),
    "val_swa": lambda: SWA(start_fraction=0.5),
    "val_quantised": lambda: Quantisation(("last.weight",), bits=2, train=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_checkpoint_holds_the_validated_weights(kind, tmp_path):
    """Best checkpoint, early stopping and a plateau schedule follow a callback's own metric."""
    data = FakeData(noise=1.0)  # the raw loss has its minimum in the middle of the phase
    phases = {"one": {"task": "fast", "epochs": 6, "carry": {"weights": "best"}}}
    stop = EarlyStopping(f"{kind}/loss", "min", patience=99)
    own = KINDS[kind]()
    model = linear()
    trainer = make_trainer(
        tmp_path, model, data=data, phases=phases, monitor=f"{kind}/loss", direction="min",
        callbacks={"stop": stop} | ({"own": own} if own else {}),
        optimizer={**SGD, "lr": 2.0}, scheduler={**PLATEAU, "patience": 0, "threshold": 0.5},
        log={"steps": 1},
    )  # fmt: skip
    seen = []
    observe = trainer.plan[0].schedule.observe
    trainer.plan[0].schedule.observe = lambda value, *rest: (
        seen.append(value),
        observe(value, *rest),
    )
    trainer.fit()
    found = series(tmp_path, f"{kind}/loss")
    assert seen == [value for _, value in found]
    assert (
        dict(series(tmp_path, "train/lr"))[24] < 2.0
    )  # no improvement by the threshold of one half
    step, value = min(found, key=lambda point: point[1])
    best = load(tmp_path, "best")
    assert best["progress"]["step"] == step and trainer.state.best == value
    assert same_state(model.state_dict(), best["model"])  # the best weights are restored
    assert ("optimizer" in best) == (kind in ("val", "val_quantised"))  # averages cannot be resumed
    again = make_trainer(
        tmp_path / "again", model, data=data, callbacks={"own": own} if own else {}
    )
    if kind == "val_quantised":  # validated with rounded weights
        own.on_fit_start(again)
        assert own.validate(again)["val_quantised/loss"] == pytest.approx(value)
    else:
        assert again.validate()["val/loss"] == pytest.approx(value)


def test_a_phase_that_ends_too_soon_has_no_average(tmp_path, caplog):
    """Reported before training where possible, otherwise at the end of the phase."""
    stop = EarlyStopping("val/loss", "max", patience=1)
    trainer = make_trainer(tmp_path, linear(), phases=FOUR, callbacks={"s": stop, "swa": SWA()})
    trainer.fit()
    assert "Phase one ended before its weights were averaged: there is no one-swa." in caplog.text
    assert not (tmp_path / "checkpoints" / "swa.safetensors").exists()
    for average, problem in (
        (EMA(start_epoch=4), "start_epoch: got 4, but phase 'one' has 4 epochs"),
        (EMA(start_step=16), "start_step: got 16, but phase 'one' has 16 updates"),
        (SWA(start_epoch=9), "start_epoch: got 9, but phase 'one' has 4 epochs"),
    ):
        (reported,) = average.check(make_setup(linear(), phases=FOUR))
        assert reported.startswith(problem)


def test_a_resumed_run_has_the_same_averages(tmp_path):
    """From every checkpoint: within and between epochs, and at the ends of phases."""
    phases = {
        "one": {"task": "fast", "epochs": 4, "carry": {"weights": "best"}},
        "two": {"task": ["fast", "slow"], "steps": 9},
    }

    def run(directory, state=None):
        callbacks = {
            "bounds": WeightBounds(-0.1, 0.1, ("*weight",)),
            "ema": EMA(start_step=1),
            "swa": SWA(start_fraction=0.5, lr=0.01),
            "stop": EarlyStopping(patience=6),
        }
        model = linear(hidden=3)
        report = make_trainer(
            directory, model, phases=phases, optimizer=ADAMW, scheduler=COSINE, state=state,
            callbacks=callbacks, checkpoint={"steps": 3, "epochs": 1}, keep=99, log={"steps": 2},
        ).fit(state)  # fmt: skip
        saved = [load(directory, n)["model"] for n in ("ema", "swa", "one-ema", "one-swa")]
        return [model.state_dict(), *saved], report, rows(directory)

    whole = run(tmp_path / "whole")
    names = sorted(path.stem for path in (tmp_path / "whole" / "checkpoints").glob("step-*"))
    assert len(names) >= 8
    for name in [*names, "one-final"]:
        part = tmp_path / name
        shutil.copytree(tmp_path / "whole", part)
        weights, report, metrics = run(part, load(part, name))
        assert all(same_state(*pair) for pair in zip(weights, whole[0], strict=True)), name
        assert report == whole[1], name
        assert metrics == whole[2], name


def test_options_without_effect_are_reported_before_training():
    """Running moments of a discriminant are not averaged; a phase may stop before the average."""
    model = network("ltgate", readout="discriminant")
    rules = {"hebbian": Hebbian(), "discriminant": Discriminant()}
    local = make_setup(model, terms=rules)
    (note,) = EMA().notes(local)
    assert (
        "but loss.discriminant of this run's local rules" in note
        and "rule=surrogate readout=linear" in note
    )
    assert list(SWA().notes(local)) and not list(GradientHealth().notes(local))
    (note,) = GradientHealth().notes(make_setup(model, terms={"discriminant": Discriminant()}))
    assert note == "has nothing to measure: loss=[discriminant] has no gradient."
    stop = EarlyStopping(patience=2)
    both = make_setup(linear(), phases=FOUR, callbacks={"swa": SWA(), "stop": stop})
    assert not list(SWA().notes(both))
    (note,) = stop.notes(both)
    assert note == (
        "may end phase 'one' after epoch 2 of 4, before callbacks.swa averages anything (its start "
        "is after epoch 3); raise warmup_epochs, or start it earlier."
    )
    assert not list(EarlyStopping(patience=2, warmup_epochs=2).notes(both))
