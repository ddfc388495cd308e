"""Averaged weights and early stopping from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.e2e.helpers import (
    SINGLE,
    SURROGATE,
    launch_here,
    load,
    read,
    same_weights,
    train_here,
    weights,
)
from tests.e2e.test_bad_input import message

ARGUMENTS = (
    *(argument for argument in SINGLE if not argument.startswith("callbacks")),
    *SURROGATE,
    "callbacks=[calibration,weight_bounds,ema,swa,early_stopping,gradient_health]",
    "callbacks.swa.start_fraction=0.5",
    "callbacks.early_stopping.patience=1",
    "callbacks.gradient_health.every_steps=2",
)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that averages its weights."""
    return train_here(tmp_path_factory.mktemp("averages") / "run", *ARGUMENTS)


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_averages_can_be_evaluated_and_trained_on(averaged: Path, name: str) -> None:
    for mode in ("evaluate", "predict"):
        done = launch_here(
            f"run={averaged}", f"checkpoint={name}", f"mode={mode}", f"hydra.run.dir={mode}"
        )
        assert done.code == 0, done.err
    report = read(Path("evaluate"))
    assert report["evaluated"].endswith(f"{name}.safetensors")
    assert not same_weights(weights(averaged, name), weights(averaged))
    assert same_weights(weights(averaged, name), weights(averaged, f"task1-{name}"))
    assert (Path("predict") / "predictions.csv").is_file()
    assert f"val_{name}/accuracy" in read(averaged)["metrics"]
    more = train_here(Path("more"), *SINGLE, *SURROGATE, f"init_from={averaged}",
                      f"checkpoint={name}")  # fmt: skip
    assert load(more)["progress"]["step"] == load(averaged)["progress"]["step"]


def test_metrics_of_averages_can_be_monitored(averaged: Path) -> None:
    """Metrics of callbacks select the best checkpoint, stop early and give the objective."""
    run = train_here(
        Path("run"), *ARGUMENTS, "callbacks.early_stopping.monitor=val_swa/loss",
        "callbacks.early_stopping.mode=min", "trainer.monitor=val_ema/accuracy",
        "trainer.objective=val_swa/accuracy",
    )  # fmt: skip
    report = read(run)
    assert report["objective"] == report["metrics"]["val_swa/accuracy"]
    assert "optimizer" not in load(run, "best") and "optimizer" in load(averaged, "best")
    restored, average = (weights(run, n) for n in ("task1-final", "swa"))
    name = next(name for name in average if name.endswith("weight"))
    assert torch.equal(restored[name], average[name])


def test_a_metric_that_no_callback_measures_is_reported_before_training() -> None:
    text = message("trainer.monitor=val_emma/loss", "trainer.direction=min", base=ARGUMENTS)
    assert "trainer.monitor: this run produces no 'val_emma/loss'. Allowed: val/accuracy" in text
    assert "val_ema/loss, val_swa/accuracy" in text and "Did you mean 'val_ema/loss'?" in text
    text = message("trainer.monitor=val_quantised/loss", "trainer.objective=val_quantised/loss",
                   base=ARGUMENTS)  # fmt: skip
    assert "trainer.monitor: this run produces no 'val_quantised/loss'" in text
    assert "trainer.objective: this run produces no 'val_quantised/loss'" in text


def test_an_average_cannot_be_resumed(averaged: Path) -> None:
    path = averaged / "checkpoints" / "ema.safetensors"
    meta = averaged / "run_meta.json"
    meta.write_text(meta.read_text().replace('"completed"', '"interrupted"'))
    done = launch_here(f"resume={path}")
    meta.write_text(meta.read_text().replace('"interrupted"', '"completed"'))
    assert done.code == 2
    assert f"{path} holds averaged weights alone" in done.err
    assert f"resume={averaged}" in done.err


def test_invalid_options_are_reported_before_training() -> None:
    base = [a for a in ARGUMENTS if "patience" not in a]
    text = message(
        "callbacks.ema.start_epoch=7", "callbacks.swa.start_epoch=2",
        "callbacks.early_stopping.monitor=val/los", "callbacks.early_stopping.mode=min",
        base=tuple(base),
    )  # fmt: skip
    for part in (
        "callbacks.ema.start_epoch: got 7, but phase 'task1' has 2 epochs",
        "callbacks.swa.start_epoch: got 2, but phase 'task1' has 2 epochs",
        "callbacks.early_stopping.monitor: this run validates no 'val/los'",
        "Did you mean 'val/loss'?",
    ):
        assert part in text
    text = message(
        "callbacks.ema.decay=1.0", "callbacks.swa.every_epochs=0",
        "callbacks.early_stopping.delta_unit=percnt", "callbacks.early_stopping.divergence=0.5",
        "callbacks.gradient_health.warn_above=-1", "trainer.clip_value=0", "trainer.clip_norm=1",
        "trainer.scaler.backoff_factor=1.5", "+trainer.scaler.flor=2",
        base=tuple(base),
    )  # fmt: skip
    for part in (
        "callbacks.ema.decay: got 1.0", "callbacks.swa.every_epochs: got 0",
        "callbacks.early_stopping.delta_unit: got 'percnt'", "Did you mean 'percent'?",
        "callbacks.early_stopping.divergence: got 0.5", "trainer.clip_value: got 0",
        "callbacks.gradient_health.warn_above: got -1", "trainer.scaler.backoff_factor: got 1.5",
        "trainer.scaler.flor: unknown key", "Did you mean 'floor'?",
    ):  # fmt: skip
        assert part in text
    text = message("trainer.clip_value=1", "trainer.clip_norm=1", base=tuple(base))
    assert text.startswith("trainer.clip_value: clips the entries of a gradient whose norm")


@pytest.mark.slow
def test_loss_scaling_is_configurable() -> None:
    """hardware.precision=16-mixed reads trainer.scaler, in training and in a resumed run."""
    run = train_here(
        Path("run"), *SINGLE, *SURROGATE, "hardware.precision=16-mixed",
        "trainer.scaler.init_scale=8", "trainer.scaler.growth_interval=2",
        "trainer.clip_value=0.01",
    )  # fmt: skip
    scaler = load(run)["scaler"]
    assert scaler["scale"] == 8.0 * 1.5**3
    assert (scaler["growth_interval"], scaler["growth_factor"]) == (2, 1.5)
