"""The loss catalogue, regression and self-supervision from the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.data.helpers import write_hdf5
from tests.e2e.helpers import SINGLE, SURROGATE, launch_here, read, rows, train_here, weights
from tests.e2e.test_bad_input import message

RNG = np.random.default_rng(0)
DATA = RNG.random((60, 8, 3)).astype(np.float32)
LABELS = {
    "value": np.stack([DATA.mean((1, 2)), DATA.max((1, 2))], 1),
    "value_sequence": np.cumsum(DATA[:, :, :2], 1) / 8,
    "class": (DATA[:, :, 0].mean(1) > 0.5).astype(np.int64),
    "class_sequence": np.where(np.arange(8) < 2, -100, (DATA[:, :, 0] > 0.5)),
}
SYMBOLS = (np.arange(8) + np.arange(60)[:, None]) % 4
SOEN = (
    "data=hdf5", "model=soen", "phase=single", "phase.main.epochs=2", "data.batch_size=16",
    "tracking=none", "callbacks=[]",
    "model.layers=[{id: 0, type: input}, {id: 1, type: dendrite, params: {dim: 6}}, "
    "{id: 2, type: dendrite, params: {gamma_plus: 0.001}}]",
)  # fmt: skip
PER_STEP = "objective.mapping=seq2seq"


def soen(kind: str, *overrides: str) -> tuple[str, ...]:
    """A small dendrite network on user data with the given kind of targets."""
    datasets = {"data": DATA, "labels": LABELS[kind]}
    path = write_hdf5(Path("own.h5").absolute(), {"": datasets}, frame_rate=100.0)
    return (*SOEN, f"data.path={path}", *overrides)


def logged(run: Path, name: str) -> list[float]:
    return [row[name] for row in rows(run) if name in row]


def test_a_weight_loss_holds_lt_gates_weights_down() -> None:
    """Terms are weighted; a heavy one without a threshold shrinks the weights."""
    terms = (*SINGLE, *SURROGATE, "callbacks=[]", "loss=[cross_entropy,reg_J_loss]",
             "optimizer.lr=0.01")  # fmt: skip
    light = train_here(Path("light"), *terms, "loss.reg_J_loss.weight=0.01")
    heavy = train_here(
        Path("heavy"), *terms, "loss.reg_J_loss.weight=10", "loss.reg_J_loss.threshold=0.0"
    )
    for run in (light, heavy):
        weight = 0.01 if run == light else 10.0
        total, entropy, size = (
            np.array(logged(run, f"train/{n}")) for n in ("loss", "cross_entropy", "reg_J_loss")
        )
        np.testing.assert_allclose(total, entropy + weight * size, rtol=1e-5)
    sizes = {
        run: sum(w.abs().sum() for n, w in weights(run).items() if n.endswith("weight"))
        for run in (light, heavy)
    }
    assert sizes[heavy] < 0.95 * sizes[light]


@pytest.mark.parametrize(
    ("kind", "mapping"), [("value", ()), ("value_sequence", (PER_STEP,))], ids=["whole", "steps"]
)
def test_values_are_learned_measured_and_predicted(kind: str, mapping: tuple[str, ...]) -> None:
    given = soen(kind, "loss=[mse]", *mapping, "optimizer.lr=0.02", "phase.main.epochs=6")
    run = train_here(Path("run"), *given, "callbacks=[progress,plots]")
    report = read(run)
    metrics = report["metrics"]
    assert report["objective_metric"] == "test/mae" and report["score"] == "mae"
    assert report["objective"] == metrics["test/mae"] == metrics["test/all/mae"]
    assert not any("accuracy" in name for name in metrics)
    errors = logged(run, "val/mae")
    assert errors[-1] < errors[0]
    assert (run / "plots" / "training.png").exists()
    assert (run / "checkpoints" / "best.safetensors").exists()

    done = launch_here("mode=evaluate", "run=run", "hydra.run.dir=again")
    assert done.code == 0, done.err
    assert "test mae" in done.out and "%" not in done.out
    assert read(Path("again"))["objective"] == pytest.approx(report["objective"])
    done = launch_here("mode=predict", "run=run", "hydra.run.dir=predicted")
    assert done.code == 0, done.err
    with open("predicted/predictions.csv", newline="") as handle:
        found = list(csv.DictReader(handle))
    assert len(found) == (6 if kind == "value" else 6 * 8)
    away = [
        abs(float(row[f"target_{k}"]) - float(row[f"prediction_{k}"]))
        for row in found
        for k in (0, 1)
    ]
    assert np.mean(away) == pytest.approx(report["objective"], rel=1e-4)


def test_a_curriculum_of_values_has_its_matrix() -> None:
    tasks = {}
    for name, factor in (("low", 0.1), ("high", 1.0)):
        parts = {
            split: write_hdf5(
                Path(f"{name}_{split}.h5").absolute(),
                {"": {"data": DATA[:20], "labels": factor * LABELS["value"][:20]}},
                frame_rate=100.0,
            )
            for split in ("train", "val", "test")
        }
        tasks[name] = "{" + ", ".join(f"{split}: {path}" for split, path in parts.items()) + "}"
    given = [o for o in SOEN if not o.startswith(("phase", "callbacks"))]
    run = train_here(
        Path("run"), *given, "loss=[mse]", "callbacks=[plots]", "phase=continual",
        *(f"+data.tasks.{name}={files}" for name, files in tasks.items()),
        "phase.task1.task=low", "phase.task2.task=high", "phase.task2.evaluate=all",
        "phase.task1.epochs=2", "phase.task2.epochs=2",
    )  # fmt: skip
    found = read(run)["continual"]
    (first, _), (last, other) = found["matrix"]
    assert found["acc"] == pytest.approx((last + other) / 2)
    assert found["bwt"] == pytest.approx(first - last) == -found["forgetting"]
    assert (run / "plots" / "mae_matrix.png").exists()


def test_inputs_are_reconstructed_whatever_the_labels() -> None:
    given = soen("class", "loss=[mse]", PER_STEP, "objective.paradigm=self_supervised")
    run = train_here(Path("run"), *given, "phase.main.epochs=4", "optimizer.lr=0.02")
    errors = logged(run, "val/mae")
    assert errors[-1] < errors[0]
    assert weights(run)["J.1_to_2.weight"].shape[0] == 3  # as many outputs as inputs


def test_the_next_symbol_is_learned() -> None:
    path = write_hdf5(Path("own.h5").absolute(), {"": {"data": SYMBOLS}}, frame_rate=100.0)
    given = (
        *SOEN, f"data.path={path}", "data.input_encoding=one_hot", PER_STEP,
        "objective.paradigm=self_supervised", "loss=[autoregressive_cross_entropy]",
        "optimizer.lr=0.1", "phase.main.epochs=10",
        "model.layers=[{id: 0, type: input}, {id: 1, type: linear, params: {dim: 6}}, "
        "{id: 2, type: linear}]",
    )  # fmt: skip
    run = train_here(Path("run"), *given)
    assert read(run)["objective_metric"] == "test/accuracy"
    assert read(run)["objective"] > 0.8  # chance level: 0.25


def test_steps_without_a_label_are_left_out() -> None:
    run = train_here(Path("run"), *soen("class_sequence", PER_STEP))
    counted = read(run)["metrics"]["test/accuracy"] * 6 * 6  # 6 samples of 6 labelled steps
    assert counted == pytest.approx(round(counted))


def test_weights_and_scale_may_have_schedules() -> None:
    given = soen(
        "class", "loss=[cross_entropy,average_state_magnitude_loss]", "trainer.log.steps=1",
        "objective.pooling={kind: ewa, min_weight: 0.1}",
        "callbacks=[loss_weights,pooling_scale]", "callbacks.pooling_scale.end=3.0",
        "callbacks.loss_weights.target=loss.average_state_magnitude_loss",
        "callbacks.loss_weights.start=0.0", "callbacks.loss_weights.end=2.0",
        "callbacks.loss_weights.end_epoch=2.0",
    )  # fmt: skip
    run = train_here(Path("run"), *given)
    weighed = logged(run, "train/weight/average_state_magnitude_loss")
    assert weighed[0] == 0.0 and weighed == sorted(weighed) and weighed[-1] > 1.0
    total, entropy, size = (
        np.array(logged(run, f"train/{n}"))
        for n in ("loss", "cross_entropy", "average_state_magnitude_loss")
    )
    np.testing.assert_allclose(total, entropy + np.array(weighed) * size, rtol=1e-5)
    assert logged(run, "train/pooling_scale")[-1] > 1.0


@pytest.mark.parametrize(
    ("name", "keys"),
    [("branching_loss", ()), ("local_expansion_loss", ("detach_clean=false", "perturbed=first"))],
)
def test_the_criticality_loss_reduces_the_distance_to_criticality(
    name: str, keys: tuple[str, ...]
) -> None:
    given = soen("class", f"loss=[{name}]", "trainer.log.steps=1", "phase.main.epochs=8",
                 "optimizer.lr=0.02", "trainer.clip_norm=1.0")  # fmt: skip
    run = train_here(Path("run"), *given, *(f"loss.{name}.{key}" for key in keys))
    costs = logged(run, "train/loss")
    assert np.mean(costs[-3:]) < np.mean(costs[:3])


@pytest.mark.parametrize(
    ("kind", "overrides", "texts"),
    [
        ("value", (), ["loss.cross_entropy: CrossEntropy needs targets of kind class", "mse"]),
        ("value", ("loss=[mse]", PER_STEP), ["objective.mapping=seq2seq", "mapping=seq2static"]),
        ("class", ("loss=[mse]",), ["loss.mse: MSE needs targets of kind value", "cross_entropy"]),
        ("class", ("loss=[cross_entropy,distillation]",), ["set objective.paradigm=distillation"]),
        ("class", ("objective.paradigm=self_supervised",), ["mapping=seq2seq loss=[mse]"]),
        ("value", ("loss=[mse]", "trainer.monitor=val/accuracy"), ["Allowed: val/mae, val/loss"]),
        ("class", ("objective.pooling=final",), ["objective.pooling.kind: got 'final'", "'last'"]),
        ("class", ("objective.pooling={kind: mean_last_n, n: 9}",), ["sequences of 8 steps"]),
        ("class", ("loss=[cross_entropy,reg_J_loss]", "loss.reg_J_loss.treshold=1"),
         ["loss.reg_J_loss.treshold", "Did you mean 'threshold'?"]),
    ],
)  # fmt: skip
def test_incompatible_terms_are_reported_before_training(
    kind: str, overrides: tuple[str, ...], texts: list[str]
) -> None:
    text = message(*soen(kind, *overrides), base=())
    for part in texts:
        assert part in text


def test_models_without_matrices_are_refused_with_an_alternative() -> None:
    text = message(*SINGLE, *SURROGATE, "loss=[cross_entropy,branching_loss]", base=())
    assert "loss.branching_loss: Branching needs layers with matrices" in text
    assert "Use model=soen with three layers or more." in text


def test_a_chip_needs_a_model_that_it_can_hold() -> None:
    text = message(*soen("value", "loss=[mse]", "hardware=loihi2"), base=())
    assert "hardware: Loihi2 needs a Deployable model, which SOEN is not" in text
