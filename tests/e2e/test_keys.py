"""Every key has an effect: changing it changes something observable.

Keys of data and tracking are tested in their own files, names of runs in test_modes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuro.learning.step import TrainStep
from tests.e2e.helpers import (
    SINGLE,
    SURROGATE,
    TINY,
    launch_here,
    load,
    read,
    rows,
    same_weights,
    train_here,
    weights,
)
from tests.test_conf import compose

GRADIENT = (*SINGLE, *SURROGATE)
HEBBIAN = ("loss=[hebbian,gate_variance,discriminant]",)

SCHEDULED = ("loss_weights", "pooling_scale", "sequence_length", "noise", "quantisation")

#: experiments in which one key is changed, by name
BASES: dict[str, tuple[str, ...]] = {
    "local": SINGLE,
    "gradient": GRADIENT,
    "curriculum": TINY,
    "curriculum of gradients": (*TINY, *SURROGATE),
    "momentum": (*GRADIENT, "optimizer=sgd"),
    "adam": (*GRADIENT, "optimizer=adam"),
    "rmsprop": (*GRADIENT, "optimizer=rmsprop"),
    "lion": (*GRADIENT, "optimizer=lion"),
    "muon": (*GRADIENT, "optimizer=muon"),
    "cosine": (*GRADIENT, "scheduler=cosine"),
    "greedy": (*GRADIENT, "scheduler=greedy", "scheduler.patience=1", "trainer.validation.steps=1"),
    "onecycle": (*GRADIENT, "scheduler=onecycle", "scheduler.pct_start=0.6"),
    "fixed": (*GRADIENT, "model.neuron.gate.kind=fixed"),
    "lif": (*SINGLE, "model=lif", "model.readout=linear"),
    "hlop": (*TINY, "model=hlop", "model.readout=linear"),
    "dsdsnn": (*TINY, "model=dsdsnn", "model.readout=linear"),
    "calibrated": (*SINGLE, "callbacks=[calibration]"),
    "scheduled": (*GRADIENT, f"callbacks=[{','.join(SCHEDULED)}]"),
}

#: base -> key -> another value; the weights at the end must differ
WEIGHTS: dict[str, dict[str, str]] = {
    "local": {
        "seed": "7",
        "optimizer.lr": "0.3",
        "model.neuron.tau_fast_ms": "9.0",
        "model.neuron.tau_slow_ms": "40.0",
        "model.channels": "[4,4,4]",
        "model.strides": "[1,1,2]",
        "model.dense_units": "8",
        "model.neuron.merge": "or",
        "model.neuron.reset": "zero",
        "model.neuron.gate.kind": "fixed",
        "model.neuron.gate.rate": "0.1",
        "model.readout_layers": "[dense]",
        "model.readout_grid": "2",
        "model.consolidation.share": "0.5",
        "model.fixed_point": "{weight_bits: 4, input_bits: 5}",
        "data.batch_size": "10",
        "phase.task1.task": "slow",
        "phase.task1.epochs": "3",
        "trainer.accumulate": "2",
        "loss.hebbian.weight": "3.0",
        "loss.hebbian.trace_decay": "0.1",
        "loss.hebbian.centre": "false",
        "loss.hebbian.forget": "false",
        "loss.hebbian.eta_v": "0.5",
        "loss.hebbian.homeostasis": "0.0",
        "loss.hebbian.target_rate": "0.4",
    },
    "curriculum": {"callbacks.calibration.all_timings": "false"},
    "calibrated": {
        "callbacks.calibration.target": "0.1",
        "callbacks.calibration.tolerance": "0.15",
        "callbacks.calibration.samples": "5",
        "callbacks.calibration.batches": "1",
        "callbacks.calibration.rounds": "1",
        "callbacks.calibration.minimum": "1.9",
        "callbacks.calibration.maximum": "0.2",
        "callbacks": "[]",
    },
    "gradient": {
        "model.recurrent": "true",
        "model.readout_tau_ms": "20.0",
        "optimizer.lr": "0.02",
        "optimizer.betas": "[0.5,0.9]",
        "optimizer.eps": "0.1",
        "optimizer.weight_decay": "9.0",
        "optimizer.groups": "{readout.*:{lr:0.1}}",
        "optimizer": "sgd",
        "scheduler": "cosine",
        "trainer.clip_norm": "0.001",
        "model.neuron.surrogate.kind": "atan",
        "model.neuron.surrogate.slope": "2.0",
        "objective.pooling": "max",
        "objective.scale": "3.0",
        "trainer.tbptt": "{length:4}",
        "trainer.stateful.training": "true",
        "loss.cross_entropy.weight": "3.0",
        "loss.cross_entropy.present_only": "true",
        "loss.cross_entropy.temperature": "2.0",
        "phase.task1.freeze": "[layers.*]",
        "+phase.task1.optimizer.lr": "0.1",
        "+phase.task1.scheduler._target_": "neuro.training.schedules.Cosine",
        "callbacks.weight_bounds.minimum": "-0.01",
        "callbacks.weight_bounds.maximum": "0.01",
        "callbacks.weight_bounds.parameters": "[readout.*]",
    },
    "scheduled": {
        "callbacks.loss_weights.start": "3.0",
        "callbacks.loss_weights.target": "objective.scale callbacks.pooling_scale=null",
        "callbacks.pooling_scale.start": "2.0",
        "callbacks.pooling_scale.end": "2.0",
        "callbacks.pooling_scale.start_epoch": "0.5",
        "callbacks.pooling_scale.end_epoch": "3.0",
        "callbacks.pooling_scale.shape": "sinusoidal",
        "callbacks.pooling_scale.period_epochs": "0.3 callbacks.pooling_scale.shape=sinusoidal",
        "callbacks.sequence_length.start": "3",
        "callbacks.sequence_length.end": "3",
        "callbacks.sequence_length.start_epoch": "0.5",
        "callbacks.sequence_length.end_epoch": "3.0",
        "callbacks.sequence_length.target": "sequence.resolution",
        "callbacks.noise.sources": "[{where:weights,names:['layers.*weight'],start:0.2}]",
        "callbacks.quantisation.parameters": "[readout.*]",
        "callbacks.quantisation.bits": "2",
        "callbacks.quantisation.levels": "7 callbacks.quantisation.bits=null",
        "callbacks.quantisation.minimum": "-0.2",
        "callbacks.quantisation.maximum": "0.3",
        "callbacks.quantisation.train": "false",
        "callbacks.quantisation.start_epoch": "1.0",
    },
    "fixed": {"model.neuron.gate.gamma": "0.9", "model.neuron.threshold": "0.1 callbacks=[]"},
    "momentum": {
        "optimizer.momentum": "0.1",
        "optimizer.nesterov": "true",
        "optimizer.dampening": "0.5",
        "optimizer.weight_decay": "0.5",
        "optimizer.lr": "0.5",
    },
    "adam": {
        "optimizer.betas": "[0.5,0.9]",
        "optimizer.eps": "0.1",
        "optimizer.weight_decay": "1",
        "optimizer.amsgrad": "true",
    },
    "rmsprop": {
        "optimizer.alpha": "0.5",
        "optimizer.eps": "0.1",
        "optimizer.momentum": "0.5",
        "optimizer.centered": "true",
        "optimizer.weight_decay": "1",
    },
    "lion": {"optimizer.betas": "[0.0,0.5]", "optimizer.weight_decay": "9"},
    "muon": {
        "optimizer.momentum": "0.1",
        "optimizer.nesterov": "false",
        "optimizer.ns_steps": "2",
        "optimizer.scaling": "original",
        "optimizer.adamw": "[readout.*]",
        "optimizer.adamw_lr": "0.1",
        "optimizer.betas": "[0.5,0.9]",
        "optimizer.eps": "0.1",
        "optimizer.weight_decay": "9",
    },
    "cosine": {
        "scheduler.warmup": "0.5",
        "scheduler.min_factor": "0.5",
        "scheduler.restarts": "{cycle:{steps:2}}",
    },
    "greedy": {
        "scheduler.warmup": "{steps:3}",
        "scheduler.increase": "3.0",
        "scheduler.decrease": "0.3",
        "scheduler.patience": "2",
        "scheduler.threshold": "0.9",
        "scheduler.monitor": "val/loss trainer.monitor=val/accuracy",
        "scheduler.min_factor": "1.0 scheduler.threshold=0.9",
        "scheduler.max_factor": "1.0 scheduler.threshold=0.0",
    },
    "onecycle": {
        "scheduler.pct_start": "0.8",
        "scheduler.div_factor": "2.0",
        "scheduler.final_div_factor": "2.0",
        "scheduler.rise": "cosine",
        "scheduler.fall": "linear",
    },
    "curriculum of gradients": {
        "phase.task1.carry.weights": "best trainer.validation.steps=1 trainer.monitor=val/loss",
        "phase.task1.carry.optimizer": "true",
        "phase.task2.replay": "{samples:5,share:0.5}",
    },
    "lif": {
        "model.neuron.tau_ms": "5.0",
        "model.neuron.reset": "zero",
        "model.readout": "discriminant loss=[cross_entropy,discriminant]",
    },
    "hlop": {
        "model.consolidation.lateral_neurons": "2",
        "loss.hlop_subspace.rate": "0.01",
        "loss.hlop_subspace.weight": "0.01",
    },
    "dsdsnn": {"model.consolidation.growth": "0.2", "model.consolidation.prune_below": "0.9"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each base experiment, run once."""
    folder = tmp_path_factory.mktemp("bases")

    def run(name: str) -> Path:
        if not (folder / name).exists():
            train_here(folder / name, *BASES[name])
        return folder / name

    return run


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [(base, key, value) for base, keys in WEIGHTS.items() for key, value in keys.items()],
)
@pytest.mark.slow
def test_weights(base: str, key: str, value: str, bases: Callable[[str], Path]) -> None:
    first, *further = value.split(" ")
    changed = train_here(Path("changed"), *BASES[base], f"{key}={first}", *further)
    assert not same_weights(weights(changed), weights(bases(base)))


def steps_logged(run: Path, prefix: str) -> list[int]:
    return [row["step"] for row in rows(run) if any(name.startswith(prefix) for name in row)]


def test_intervals(bases: Callable[[str], Path]) -> None:
    run = train_here(
        Path("run"), *SINGLE, "trainer.log.steps=2", "trainer.validation={steps:4,epochs:null}",
        "trainer.checkpoint={steps:1,epochs:null}", "trainer.keep=3",
    )  # fmt: skip
    assert steps_logged(run, "train/") == [2, 4, 6]
    assert steps_logged(run, "val/") == [4, 6]
    assert len(list((run / "checkpoints").glob("step-*"))) == 3
    base = bases("local")
    assert steps_logged(base, "val/") == [3, 6]
    assert not list((base / "checkpoints").glob("step-*"))
    run = train_here(
        Path("epochs"), *SINGLE, "trainer.log={steps:null,epochs:1}", "trainer.validation.epochs=2",
    )  # fmt: skip
    assert steps_logged(run, "train/") == [3, 6]
    assert steps_logged(run, "val/") == [6]


def test_steps_and_epochs() -> None:
    run = train_here(Path("run"), *SINGLE, "phase.task1.epochs=null", "phase.task1.steps=4")
    assert load(run)["progress"]["step"] == 4


def test_monitor_and_direction() -> None:
    kept = {}
    for direction in ("max", "min"):
        run = train_here(
            Path(direction), *SINGLE, "trainer.validation.steps=1", "trainer.monitor=val/loss",
            f"trainer.direction={direction}",
        )  # fmt: skip
        kept[direction] = load(run, "best")["progress"]["step"]
    assert kept["max"] != kept["min"]


def test_objective() -> None:
    run = train_here(Path("run"), *TINY, "trainer.objective=continual/forgetting")
    report = read(run)
    assert report["objective_metric"] == "continual/forgetting"
    assert report["objective"] == report["continual"]["forgetting"]


def test_evaluated_tasks() -> None:
    run = train_here(Path("run"), *TINY, "phase.task1.evaluate=[fast]")
    report = read(run)
    assert list(report["phases"][0]["test"]) == ["fast"]
    assert list(report["phases"][1]["test"]) == ["fast", "slow"]
    assert "continual" not in report  # the matrix requires every task in every row


def test_names_and_tags() -> None:
    done = launch_here(
        *SINGLE, "name=mine", "project=theirs", "group=g", "tags=[a,b]", "runs_dir=elsewhere"
    )
    assert done.code == 0, done.err
    (run,) = Path("elsewhere/mine").iterdir()
    meta = read(run, "run_meta.json")
    assert (meta["name"], meta["project"], meta["group"]) == ("mine", "theirs", "g")
    assert meta["tags"] == ["a", "b"]


def test_diverged() -> None:
    """trainer.max_skipped ends a run whose losses are not finite."""
    plugin = "model._target_=tests.e2e.plugins.NotANumber"
    done = launch_here(*GRADIENT, plugin, "trainer.max_skipped=2", "hydra.run.dir=run")
    assert done.code == 3
    assert "2 updates in a row" in done.err
    assert "Traceback" not in done.err
    assert read(Path("run"), "run_meta.json")["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_precision(precision: str, bases: Callable[[str], Path]) -> None:
    run = train_here(Path("run"), *GRADIENT, f"hardware.precision={precision}")
    assert not same_weights(weights(run), weights(bases("gradient")))


def test_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training step is compiled only with the option."""
    steps: list[TrainStep] = []
    monkeypatch.setattr(TrainStep, "compile", lambda step, **_: steps.append(step))
    train_here(Path("plain"), *SINGLE)
    assert steps == []
    train_here(Path("run"), *SINGLE, "hardware.compile=true")
    assert len(steps) == 1


@pytest.mark.slow  # torch compiles for a minute
@pytest.mark.timeout(900)
@pytest.mark.parametrize("base", ["local", "gradient"])
def test_a_compiled_step_learns_the_same(base: str, bases: Callable[[str], Path]) -> None:
    run = train_here(Path("run"), *BASES[base], "hardware.compile=true")
    losses = [
        [row["train/loss"] for row in rows(r) if "train/loss" in row] for r in (run, bases(base))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_two_processes(bases: Callable[[str], Path]) -> None:
    done = launch_here(*SINGLE, "hardware=cpu", "hardware.devices=2", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert "2 x cpu" in done.out
    assert load(Path("run"))["progress"]["step"] == load(bases("local"))["progress"]["step"]


def test_every_key_is_in_a_table() -> None:
    """A key that is added to a group without a test of its effect fails here."""
    elsewhere = (
        "data", "tracking", "callbacks.progress", "callbacks.plots", "callbacks.diagnostics",
        "callbacks.chip_limits", "callbacks.profiler", "repeats", "ensemble", "check_batches",
        "prompt", "tokens", "temperature", "top_k", "top_p", "format", "benchmark",
        "hardware", "mode", "run", "checkpoint", "resume", "init_from", "init_strict", "name",
        "project", "group", "tags", "runs_dir", "trainer", "phase.task2", "phase.task1.steps",
        "phase.task1.evaluate", "phase.task1.flags", "phase.task1.replay",
        "objective.mapping", "objective.paradigm", "teacher", "teacher_checkpoint",
        "teacher_mixtures", "loss.gate_variance", "loss.discriminant", "metric",
        "phase.task1.carry.state",
    )  # fmt: skip
    tested = {key.lstrip("+") for keys in WEIGHTS.values() for key in keys}
    missing = [
        key
        for choice in (SINGLE, GRADIENT, *BASES.values())
        for key in leaves(compose(*choice))
        if not any(f"{key}.".startswith(f"{t}.") for t in (*tested, *elsewhere))
        and not any(t.startswith(f"{key}.") for t in tested)  # an empty mapping
    ]
    assert sorted(set(missing)) == []


def leaves(node: Any, path: str = "") -> list[str]:
    """The paths of a config's values."""
    if isinstance(node, dict) and node:
        return [
            leaf
            for key, value in node.items()
            if key != "_target_"
            for leaf in leaves(value, f"{path}.{key}" if path else key)
        ]
    return [path]
