"""Early stopping on scripted validation values: end of the phase, and restored weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from neuro.io import checkpoint
from neuro.training.callbacks.base import Callback
from neuro.training.callbacks.early_stopping import EarlyStopping
from tests.fakes import (
    COSINE,
    SGD,
    TWO_PHASES,
    FakeData,
    linear,
    make_setup,
    make_trainer,
    same_state,
    series,
)

LONG = {"one": {"task": "fast", "epochs": 8}}
WATCH = {"monitor": "val/loss", "mode": "min"}


class Script(Callback):
    """Replace validated values by given ones, and record the weights of each validation."""

    def __init__(self, values: Sequence[float], name: str = "val/loss"):
        self.values, self.name = values, name
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_validation(self, trainer, metrics):
        epoch = trainer.progress.phase_step // trainer.phase.steps_per_epoch
        metrics[self.name] = self.values[epoch - 1]
        self.weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})


def epochs(tmp_path, values, *, phases=LONG, more: Any = None, **options) -> float:
    """Number of epochs of a phase with these validation losses."""
    callbacks = {"script": Script(values), "stop": EarlyStopping(**{**WATCH, **options})}
    trainer = make_trainer(tmp_path, linear(), phases=phases, callbacks=callbacks, **(more or {}))
    trainer.fit()
    return trainer.progress.step / trainer.plan[0].steps_per_epoch


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([5, 4, 3, 2, 1, 1, 1, 1], {"patience": 2}, 7),
        ([5, 4, 5, 5, 3, 5, 5, 5], {"patience": 3}, 8),
        ([5, 4, 5, 5, 3, 5, 5, 5], {"patience": 2}, 4),
        ([1, 2, 2, 2, 2, 2, 2, 2], {"patience": 1, "warmup_epochs": 5}, 6),
        ([1, 2, 2, 2, 2, 2, 2, 2], {"patience": 2, "warmup_epochs": 5}, 7),
        ([1, 2, 2, 0.5, 0.4, 0.3, 2, 2], {"patience": 3, "warmup_epochs": 4}, 8),
        # smaller steps than min_delta add up; each alone is no improvement
        ([10, 9.5, 9.1, 8.9, 8.5, 8.1, 8, 7], {"patience": 3, "min_delta": 1.0}, 7),
        ([10, 9.5, 9.1, 8.9, 8.5, 8.1, 8, 7], {"patience": 2, "min_delta": 1.0}, 3),
        ([10, 9.5, 9.0, 8.5, 8, 7.5, 7, 6.5], {"patience": 1, "min_delta": 4.0}, 2),
        (
            [10, 9.5, 9.0, 8.5, 8, 7.5, 7, 6.5],
            {"patience": 1, "min_delta": 4.0, "delta_unit": "percent"},
            8,
        ),
        ([1, 3, 1, 11, 1, 1, 1, 1], {"divergence": 10.0}, 4),
        ([1, 3, 1, 11, 1, 1, 1, 1], {"divergence": 20.0}, 8),
        ([1, 11, 1, 1, 1, 1, 1, 1], {"divergence": 10.0, "warmup_epochs": 4}, 8),
        ([-1, 3, 3, 3, 3, 3, 3, 3], {"divergence": 2.0}, 8),  # no ratio to a negative best
        ([1, math.inf, 1, 1, 1, 1, 1, 1], {}, 2),
        ([math.nan, 1, 1, 1, 1, 1, 1, 1], {"warmup_epochs": 4}, 1),  # NaN ends a warm-up too
        ([1, 2, 3, 4, 5, 6, 7, 8], {"patience": 1, "mode": "max"}, 8),
        ([8, 7, 7, 7, 7, 7, 7, 7], {"patience": 1, "mode": "max"}, 2),
        ([8, 7, 3, 7, 7, 7, 7, 7], {"divergence": 2.0, "mode": "max"}, 3),
    ],
)
def test_when_a_phase_ends(tmp_path, values, options, expected):
    assert epochs(tmp_path, values, **options) == expected


def test_min_lr_ends_a_phase_after_the_warmup(tmp_path):
    """Cosine with warm-up over 8 epochs of 4 updates falls below a tenth near the end."""
    more = {"scheduler": {**COSINE, "warmup": 0.3}, "log": {"steps": 1}}
    lasted = epochs(tmp_path / "a", range(8), more=more, min_lr=0.02)
    rates = [rate for _, rate in series(tmp_path / "a", "train/lr")]
    assert rates[0] < 0.02 and rates[-1] < 0.02 and all(rate >= 0.02 for rate in rates[1:-1])
    assert 5 < lasted < 8
    assert epochs(tmp_path / "b", range(8), more=more, min_lr=0.02, warmup_epochs=8) == 8


def test_the_loss_is_the_default(tmp_path):
    """A constant accuracy does not end a phase whose loss falls."""
    accuracy = Script([0.5] * 8, "val/accuracy")
    callbacks = {"a": accuracy, "l": Script(range(8, 0, -1)), "stop": EarlyStopping(patience=2)}
    trainer = make_trainer(tmp_path, linear(), phases=LONG, callbacks=callbacks)
    trainer.fit()
    assert trainer.progress.step == 8 * 4


@pytest.mark.parametrize(("unit", "expected"), [("validations", 10), ("epochs", 14)])
def test_the_unit_of_patience(tmp_path, unit, expected):
    """Two validations per epoch of 4 updates, without improvement after the third validation.

    Two validations later: update 10; two epochs later: update 14.
    """

    class Rising(Callback):
        def on_validation(self, trainer, metrics):
            metrics["val/loss"] = float(max(6 - trainer.progress.phase_step, 0))

    stop = EarlyStopping(patience=2, patience_unit=unit)
    trainer = make_trainer(
        tmp_path, linear(), phases=LONG, callbacks={"rise": Rising(), "stop": stop},
        validation={"steps": 2},
    )  # fmt: skip
    trainer.fit()
    assert trainer.progress.step == expected


@pytest.mark.parametrize("monitor", [None, "val/accuracy"])
def test_the_direction_is_that_of_the_metric(tmp_path, caplog, monitor):
    callbacks = {
        "script": Script([1, 2, 1, 1], "val/accuracy"),
        "stop": EarlyStopping(monitor, patience=2),
    }
    trainer = make_trainer(tmp_path, linear(), phases=LONG, callbacks=callbacks)
    with caplog.at_level(logging.INFO):
        trainer.fit()
    assert trainer.progress.step == 16
    assert "Phase one stopped early after update 16: val/accuracy did not improve" in caplog.text


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("patience", [2, 9])  # stopped early, and not
def test_the_best_weights_are_restored(tmp_path, restore, patience):
    script = Script([3, 1, 2, 2, 2, 2, 2, 2])
    callbacks = {
        "script": script,
        "stop": EarlyStopping(**WATCH, patience=patience, restore_best=restore),
    }
    model = linear()
    phases = {"one": {"task": "fast", "epochs": 8, "carry": {"weights": "last"}}}
    make_trainer(tmp_path, model, phases=phases, callbacks=callbacks).fit()
    wanted = script.weights[1 if restore else -1]
    assert same_state(model.state_dict(), wanted)
    final = checkpoint.load(tmp_path / "checkpoints" / "one-final.safetensors")
    assert same_state(final["model"], wanted)
    assert final["callbacks"]["stop"]["weights"] == {}  # kept during the phase only


def test_every_phase_starts_with_a_new_count(tmp_path):
    """The first phase ends after 3 epochs; the second, whose values are worse, after 3 as well."""
    phases = {name: {**phase, "epochs": 8} for name, phase in TWO_PHASES.items()}
    trainer = make_trainer(
        tmp_path, linear(), phases=phases,
        callbacks={"s": Script([1, 2, 2] + [3] * 5), "e": EarlyStopping(**WATCH, patience=2)},
    )  # fmt: skip
    trainer.fit()
    assert trainer.progress.step == 2 * 3 * 4


@pytest.mark.parametrize("at", [4, 8, 12, 16, 20])
def test_a_resumed_run_stops_at_the_same_update_with_the_same_weights(tmp_path, at):
    """The best value is that of epoch 2; the phase stops after epoch 5."""

    def run(state=None):
        model = linear()
        callbacks = {
            "script": Script([3, 1, 2, 2, 2, 2, 2, 2]),
            "stop": EarlyStopping(**WATCH, patience=3, min_lr=1e-9),
        }
        make_trainer(
            tmp_path, model, phases=LONG, callbacks=callbacks, state=state, keep=99,
            checkpoint={"steps": 4}, data=FakeData(noise=2.0), optimizer={**SGD, "lr": 1.0},
        ).fit(state)  # fmt: skip
        return model.state_dict()

    whole = run()
    path = tmp_path / "checkpoints" / f"step-{at:08d}.safetensors"
    assert same_state(run(checkpoint.load(path)), whole)


def test_unknown_monitors_are_reported_before_training():
    def reported(stopping: EarlyStopping, validated: list[str]) -> list[str]:
        return list(stopping.check(make_setup(linear(), validated=validated)))

    names = ["val/accuracy", "val/loss"]
    assert reported(EarlyStopping(), names) == []
    assert reported(EarlyStopping("val/los", "min"), names) == [
        "monitor: this run validates no 'val/los'. Allowed: val/accuracy, val/loss. "
        "Did you mean 'val/loss'?"
    ]
    assert reported(EarlyStopping(), []) == [
        "monitor: nothing is validated; set trainer.validation.epochs=1."
    ]
