"""SOENs with each training technique: effect and resume."""

from __future__ import annotations

import shutil

import pytest
import torch
from lightning_fabric import Fabric

from neuro.experiment.devices import make_fabric
from neuro.io import checkpoint
from neuro.ops.codebook import codebook
from neuro.training.callbacks.anneal import Anneal
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.constraints import Constraints
from neuro.training.callbacks.diagnostics import Diagnostics
from neuro.training.callbacks.ema import EMA
from neuro.training.callbacks.histograms import Histograms
from neuro.training.callbacks.noise import Noise, NoiseSource
from neuro.training.callbacks.quantisation import Quantisation
from neuro.training.callbacks.swa import SWA
from neuro.training.callbacks.trajectories import Trajectories
from tests.fakes import (
    ADAMW,
    TWO_PHASES,
    FakeData,
    hardware,
    linear,
    make_setup,
    make_trainer,
    rows,
    same_state,
    series,
)
from tests.soen import CONNECTIONS, soen

LAYERS = (
    {"id": 0, "type": "input"},
    {"id": 1, "type": "dendrite", "params": {"dim": 6}},
    {"id": 2, "type": "dendrite", "params": {"gamma_plus": 0.001}},
)
BACK = {"from": 2, "to": 1, "type": "dense"}
ONE = {"one": {"task": "fast", "epochs": 3}}


def anneal(target, start, end):
    return {"it": Anneal(target, start, end, end_epoch=1.5)}


def net(**options):
    options = {"layers": LAYERS, "connections": [*CONNECTIONS, BACK], **options}
    return soen(**options, task=FakeData().spec("fast"))


def fit(directory, model=None, state=None, callbacks=None, phases=TWO_PHASES, **settings):
    settings = {
        "checkpoint": {"steps": 5}, "keep": 99, "log": {"steps": 1}, "optimizer": ADAMW, **settings
    }  # fmt: skip
    torch.manual_seed(0)
    trainer = make_trainer(
        directory, model or net(), phases=phases, state=state, callbacks=callbacks, **settings
    )
    trainer.fit(state)
    return trainer


def level(**options):
    return NoiseSource(**{"where": "model", "start": 0.3, "end": 0.1, **options})


#: options of the network, settings, callbacks; whether weights differ from "plain"
TECHNIQUES = {
    "plain": ({}, {}, dict, False),
    "chunks": ({}, {"tbptt": {"length": 3, "stride": 2}}, dict, True),
    "stateful": ({}, {"stateful": {"training": True, "validation": True}}, dict, True),
    "accumulation": ({}, {"accumulate": 2}, dict, True),
    "sequence length": ({}, {}, lambda: anneal("sequence.length", 3, 6), True),
    "pooling scale": ({}, {}, lambda: anneal("objective.scale", 1.0, 30.0), True),
    "average": ({}, {}, lambda: {"it": EMA(decay=0.5)}, False),
    "stochastic average": ({}, {}, lambda: {"it": SWA(start_fraction=0.0)}, False),
    "levels": (
        {}, {},
        lambda: {"it": Quantisation(("J.*.weight",), 4, None, -0.24, 0.24)}, True,
    ),
    "noise": ({"noise": {"phi": 0.1, "j": 0.1}, "perturb": {"bias_current": 0.1}}, {}, dict, True),
    "noise schedule": (
        {}, {},
        lambda: {"it": Noise((level(names=("phi",)), level(names=("s", "j"), kind="perturb")))},
        True,
    ),
    "constraints": (
        {
            "connections": [
                {**CONNECTIONS[0], "constraints": {"excitatory": 0.5}}, CONNECTIONS[1], BACK
            ]
        },
        {}, lambda: {"it": Constraints()}, True,
    ),
    "learned step": ({"dt_learnable": True}, {}, dict, True),
    "monitors": (
        {}, {},
        lambda: {"a": Diagnostics(every_steps=2), "b": Histograms(), "c": Trajectories()}, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TECHNIQUES)
def test_each_technique_trains_and_resumes(tmp_path, name, monkeypatch):
    if name == "monitors":
        monkeypatch.setattr("neuro.analysis.plots.style.save", lambda figure, path: path)
    options, settings, callbacks, changes = TECHNIQUES[name]
    whole = fit(tmp_path / "whole", net(**options), callbacks=callbacks(), **settings)
    weights, metrics = whole.model.state_dict(), rows(tmp_path / "whole")
    assert all(torch.isfinite(value).all() for value in whole.model.parameters())
    start = net(**options).state_dict()
    moved = {name for name, value in weights.items() if not torch.equal(value, start[name])}
    assert moved == {name for name, _ in whole.model.named_parameters()}
    if name != "plain":
        plain = fit(tmp_path / "plain").model.state_dict()
        shared = plain.keys() & weights.keys()
        assert all(torch.equal(plain[n], weights[n]) for n in shared) == (not changes)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    saved = sorted((tmp_path / "again" / "checkpoints").glob("step-*"))
    state = checkpoint.load(saved[-2 if len(saved) > 1 else 0])
    again = fit(
        tmp_path / "again", net(seed=7, **options), state, callbacks=callbacks(), **settings
    )
    assert same_state(again.model.state_dict(), weights)
    assert rows(tmp_path / "again") == metrics


def test_a_learning_rate_is_found(tmp_path):
    search = {"min_lr": 1e-4, "max_lr": 10.0, "steps": 40, "smoothing": 0.6}
    trainer = make_trainer(
        tmp_path, net(), phases=ONE, optimizer={**ADAMW, "lr": "auto"}, lr_find=search,
    )  # fmt: skip
    assert 1e-4 < trainer.fit().found_lr["one"] < 10.0


def processes(fabric, directory):
    own = directory / f"rank{fabric.global_rank}"
    callbacks = {"it": Constraints(), "ema": EMA(decay=0.5)}
    trainer = make_trainer(
        own, net(), phases=TWO_PHASES, fabric=fabric, optimizer=ADAMW, callbacks=callbacks
    )
    trainer.fit()
    checkpoint.save(own / "weights.safetensors", trainer.model.state_dict())


@pytest.mark.slow  # two processes are started
def test_two_processes_equal_one(tmp_path):
    processes(Fabric(accelerator="cpu", devices=1), tmp_path / "one")
    wanted = hardware(devices=2, strategy="ddp")
    make_fabric(wanted).launch(processes, tmp_path / "two")
    one, two, three = (
        checkpoint.load(tmp_path / place / "weights.safetensors")
        for place in ("one/rank0", "two/rank0", "two/rank1")
    )
    assert same_state(two, three)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


# -- noise within the model -------------------------------------------------------------------


class Levels(Callback):
    """Record the model's noise levels within each training step, and after it."""

    def __init__(self):
        self.within, self.after = [], []

    def on_fit_start(self, trainer):
        model, forward = trainer.model, type(trainer.model).forward

        def noted(*arguments, **options):
            if model.training:
                self.within.append(model.noise_levels)
            return forward(model, *arguments, **options)

        model.forward = noted

    def on_step(self, trainer, metrics):
        self.after.append(trainer.model.noise_levels)


@pytest.mark.parametrize("kind", ["noise", "perturb"])
def test_levels_follow_their_schedule_and_evaluation_has_the_configs(tmp_path, kind):
    watch = Levels()
    noise = Noise((level(names=("b*", "j"), kind=kind, start=0.4, end=0.0, end_epoch=2.0),))
    model = net(**{kind: {"phi": 0.2, "j": 0.05}})
    fit(tmp_path, model, callbacks={"noise": noise, "watch": watch}, phases=ONE)
    expected = [max(0.4 - 0.4 * update / 8, 0.0) for update in range(12)]
    for place in ("bias_current", "j"):
        found = [levels[f"{kind}.{place}"] for levels in watch.within]
        assert found == pytest.approx(expected)
    assert {levels[f"{kind}.phi"] for levels in watch.within} == {0.2}
    assert all(levels == net(**{kind: {"phi": 0.2, "j": 0.05}}).noise_levels
               for levels in watch.after)  # fmt: skip
    assert [v for _, v in series(tmp_path, "train/noise/0")] == pytest.approx(expected)


@pytest.mark.parametrize(
    "names, message",
    [
        (("phy",), "sources.0.names: nothing matches 'phy'. The model has: phi, g, s, bias_"),
        (("phi", "p*"), "sources.1.names: noise.phi is set by sources.0 already."),
    ],
)  # fmt: skip
def test_names_are_checked(names, message):
    (problem,) = Noise(tuple(level(names=(name,)) for name in names)).check(make_setup(net()))
    assert problem.startswith(message)


def test_noise_and_perturbation_of_one_tensor_are_separate():
    both = Noise((level(names=("phi",)), level(names=("phi",), kind="perturb")))
    assert list(both.check(make_setup(net()))) == []


def test_a_model_without_internal_noise():
    (problem,) = Noise((level(names=("phi",)),)).check(make_setup(linear()))
    assert problem == "sources.0.names: Linear makes no noise of kind noise of its own."


def test_invalid_sources_in_the_model():
    with pytest.raises(
        ValueError, match=r"relative: not for where=model, .* model\.noise_relative"
    ):
        level(names=("phi",), relative=True)
    with pytest.raises(ValueError, match="noise on model needs names"):
        level()


# -- quantisation -------------------------------------------------------------------------------


def test_rounded_weights_are_levels_of_the_codebook(tmp_path):
    seen = []

    class Look(Callback):
        def on_fit_start(self, trainer):
            trainer.add_weight_change(lambda weights: seen.append(dict(weights)) or {})

    callbacks = {
        "it": Quantisation(("J.*.weight",), 4, None, -0.24, 0.24), "look": Look(),
    }  # fmt: skip
    fit(tmp_path, callbacks=callbacks, phases=ONE)
    levels = codebook(17, -0.24, 0.24)
    for name, weight in seen[-1].items():
        distance = (weight.detach()[..., None] - levels).abs().amin(-1)
        assert bool((distance < 1e-6).all()) == name.startswith("J.")
    assert series(tmp_path, "val_quantised/accuracy")
