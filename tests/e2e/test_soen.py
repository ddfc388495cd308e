"""SOENs from the command line: train, resume, evaluate, predict, check; presets, mistakes."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from neuro import models
from tests.e2e.helpers import (
    launch_here,
    read,
    rows,
    same_weights,
    train_here,
    weights,
)

#: an experiment that takes a second
TINY = (
    "experiment=soen_digits", "data.limit_train=40", "data.limit_val=20", "data.limit_test=20",
    "data.batch_size=10", "tracking=none", "phase.main.epochs=2", "trainer.log.steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_here(tmp_path_factory.mktemp("soen") / "run", *TINY)


def refused(*arguments):
    done = launch_here(*TINY, *arguments)
    assert done.code != 0
    assert "Traceback" not in done.err
    return done.err


def test_a_run_saves_metrics_model_and_plots(run):
    assert 0 <= read(run)["objective"] <= 1
    start = train_here(run.parent / "start", *TINY, "phase.main.epochs=1", "optimizer.lr=1e-12")
    before, after = weights(start), weights(run)
    for name in ("J.0_to_1.weight", "layers.layer1.gamma_plus.raw", "layers.layer2.phi_offset.raw"):
        assert not torch.equal(before[name], after[name]), name
    pictures = {path.stem for path in (run / "plots").glob("*.png")}
    assert pictures >= {"training", "weights", "parameters", "trajectories"}
    logged = {name for row in rows(run) for name in row}
    assert {"diagnostics/layer1/activity", "diagnostics/layer1_to_layer2/weight_max"} <= logged
    model = models.load(run / "model.safetensors")
    assert same_weights(model.state_dict(), after)


@pytest.mark.slow
def test_weights_follow_the_seed_and_the_repeat_number(tmp_path, run):
    done = launch_here(*TINY, "repeats=2", f"hydra.run.dir={tmp_path / 'both'}")
    assert done.code == 0, done.err
    parts = [path.parent for path in sorted((tmp_path / "both").rglob("config.yaml"))]
    one, two = (weights(part) for part in parts if (part / "checkpoints").exists())
    assert same_weights(one, weights(run)) and not same_weights(two, weights(run))
    other = train_here(tmp_path / "other", *TINY, "seed=1")
    assert same_weights(two, weights(other))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, run):
    part = tmp_path / "part"
    stopped = (*TINY, "trainer.checkpoint.steps=2", "trainer.keep=9")
    train_here(part, *stopped)
    saved = sorted((part / "checkpoints").glob("step-*"))
    done = launch_here(*stopped, f"resume={saved[0]}")
    assert done.code == 0, done.err
    assert same_weights(weights(part), weights(run))


def test_a_finished_run_is_evaluated_and_predicts(run):
    done = launch_here("mode=evaluate", f"run={run}", "tracking=none")
    assert done.code == 0, done.err
    assert f"{100 * read(run)['objective']:.2f} %" in done.out
    done = launch_here("mode=predict", f"run={run}", "tracking=none")
    assert done.code == 0, done.err


def test_check_mode_trains_nothing(tmp_path):
    done = launch_here(*TINY, "mode=check", f"hydra.run.dir={tmp_path / 'none'}")
    assert done.code == 0, done.err
    assert not (tmp_path / "none" / "report.json").exists()


def test_the_model_with_a_curriculum_on_the_default_data(tmp_path):
    limits = [part for part in TINY if part.startswith(("data.limit", "tracking"))]
    done = launch_here(
        "model=soen", *limits, "data.timings.fast.duration_ms=8",
        "data.timings.slow.duration_ms=160", "phase.task1.epochs=1", "phase.task2.epochs=1",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [phase["name"] for phase in read(tmp_path / "run")["phases"]] == ["task1", "task2"]


@pytest.mark.parametrize(
    "changes",
    [
        ("model.dt=20",), ("model.dt_learnable=true",), ("model.substeps=2",),
        ("+model.layers.1.params.bias_current=1.9",),
        ("model.noise={phi:0.1}",), ("model.perturb={j:0.1}",),
        (
            "callbacks=[constraints,noise]",
            "callbacks.noise.sources=[{where:model,names:[bias_current],kind:perturb}]",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_keys_change_the_run(tmp_path, run, changes):
    other = train_here(tmp_path / "run", *TINY, "callbacks=[constraints]", *changes)
    assert not same_weights(weights(run), weights(other))


def test_noise_in_evaluation_changes_test_results(tmp_path, run):
    noisy = train_here(
        tmp_path / "run", *TINY, "model.noise={s:0.3}", "model.noise_in_evaluation=true",
        "phase.main.epochs=1", "callbacks=[constraints]",
    )  # fmt: skip
    quiet = train_here(
        tmp_path / "quiet", *TINY, "model.noise={s:0.3}", "phase.main.epochs=1",
        "callbacks=[constraints]",
    )  # fmt: skip
    assert same_weights(weights(noisy), weights(quiet))
    assert read(noisy)["metrics"] != read(quiet)["metrics"]


def test_mistakes_are_reported_before_training(tmp_path):
    assert "there is no type 'dendrit'" in refused("model.layers.1.type=dendrit")
    assert "Did you mean 'bias_current'" in refused("+model.layers.1.params.bias_curent=1.0")
    found = refused("model.evaluation=layerwise", "model.solver=scan")
    assert "solver: scan needs sources without a squid current" in found
    found = refused(
        "callbacks=[constraints,noise]",
        "callbacks.noise.sources=[{where:model,names:[phy]}]",
    )
    assert "callbacks.noise.sources.0.names: nothing matches 'phy'" in found
    found = refused("callbacks.trajectories.layers=[layer7]")
    assert "callbacks.trajectories.layers: nothing matches 'layer7'" in found
    bound = "+model.connections.0.constraints={maximum:0.1}"
    assert "add the callback constraints" in refused(bound, "callbacks=[progress]")


def test_a_4_bit_network_is_measured_with_its_levels(tmp_path):
    run = train_here(
        tmp_path / "run", *(part for part in TINY if not part.startswith("experiment")),
        "experiment=soen_digits_4bit",
    )  # fmt: skip
    logged = {name for row in rows(run) for name in row}
    assert {"val_quantised/accuracy", "test_quantised/all/accuracy"} <= logged


@pytest.mark.slow  # two full runs, about 40 s
def test_4_bits_stay_within_three_points_of_float(tmp_path):
    train_here(tmp_path / "float", "experiment=soen_digits", "tracking=none")
    train_here(tmp_path / "bits", "experiment=soen_digits_4bit", "tracking=none")
    exact = read(tmp_path / "float")["objective"]
    lines = (tmp_path / "bits" / "metrics.jsonl").read_text().splitlines()
    rounded = [
        row["test_quantised/all/accuracy"]
        for row in map(json.loads, lines)
        if "test_quantised/all/accuracy" in row
    ]
    assert exact >= 0.9
    assert rounded[-1] >= exact - 0.03


@pytest.mark.slow  # thirteen full runs, about two minutes
@pytest.mark.timeout(1800)
def test_distillation_improves_a_student_with_a_quarter_of_the_nodes(tmp_path):
    """Six seeds, with equal numbers of updates with and without the teacher."""
    common = ("tracking=none", "callbacks=[constraints]")
    wide = train_here(tmp_path / "wide", "experiment=soen_digits", *common)
    taught = train_here(
        tmp_path / "taught", "experiment=soen_distillation", f"teacher={wide}", "repeats=6",
        *common,
    )  # fmt: skip
    alone = train_here(
        tmp_path / "alone", "experiment=soen_digits", "model.layers.1.params.dim=16",
        "phase.main.epochs=100", "repeats=6", *common,
    )  # fmt: skip
    steps = [max(row["step"] for row in rows(run / "repeat_0")) for run in (taught, alone)]
    assert steps[0] == steps[1]
    teacher = read(wide)["objective"]
    student, other = (
        statistics.mean(read(run / f"repeat_{i}")["objective"] for i in range(6))
        for run in (taught, alone)
    )
    assert student >= teacher - 0.03
    assert student > other
