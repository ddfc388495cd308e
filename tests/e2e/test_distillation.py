"""Distillation: any models, one or two processes, resumed after a kill; invalid options."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from neuro.data.teaching import FOLDER
from tests.data.helpers import write_hdf5
from tests.e2e.helpers import (
    assert_same_run,
    launch_here,
    launch_in_process,
    read,
    rows,
    same_weights,
    train_here,
    weights,
)
from tests.e2e.test_resume import interrupt

#: one phase on two classes of digits, which takes a second
COMMON = (
    "phase=single", "phase.main.task=all", "phase.main.epochs=2", "trainer.log.steps=1",
    "data.tasks.all.classes=[0,1]", "data.tasks.fast=null", "data.tasks.slow=null",
    "data.timings.slow.duration_ms=160", "data.limit_train=40", "data.limit_val=10",
    "data.limit_test=10", "data.batch_size=8", "tracking=none",
)  # fmt: skip
SOEN = ("model=soen", *COMMON, "callbacks=[constraints]")
LIF = (
    "model=lif", *COMMON, "callbacks=[]", "model.channels=[4,4,8]", "model.dense_units=16",
)  # fmt: skip
FOLLOW = ("objective.paradigm=distillation", "loss=[cross_entropy,distillation]")


@pytest.fixture(scope="module")
def soen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_here(tmp_path_factory.mktemp("teachers") / "teacher", *SOEN)


def test_a_student_learns_its_teachers_outputs(soen: Path, tmp_path: Path) -> None:
    """From the trajectories alone, without labels."""
    student = train_here(
        tmp_path / "student", *SOEN, *FOLLOW[:1], "loss=[distillation]", f"teacher={soen}",
        "phase.main.epochs=12", "optimizer.lr=0.01", "loss.distillation.weight=100", "seed=3",
    )  # fmt: skip
    losses = [row["train/loss"] for row in rows(student) if "train/loss" in row]
    assert losses[-1] < 0.5 * losses[0]


def test_a_student_may_follow_states_of_layers(soen: Path, tmp_path: Path) -> None:
    """The hidden layer of 64 nodes; before training, sizes and names are compared."""
    only = (*SOEN, *FOLLOW[:1], "loss=[distillation]", f"teacher={soen}")
    student = train_here(
        tmp_path / "student", *only, "phase.main.epochs=12", "optimizer.lr=0.01",
        "loss.distillation.layers={layer1: layer1}", "loss.distillation.weight=100", "seed=3",
    )  # fmt: skip
    losses = [row["train/loss"] for row in rows(student) if "train/loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    done = launch_here(*only, "loss.distillation.layers={layer1: layer2}")
    assert done.code == 2
    assert "loss.distillation.layers: 'layer1' of this run has 64 states, but 'layer2'" in done.err
    done = launch_here(*only, "loss.distillation.layers={layer1: layr1}")
    assert "loss.distillation.layers: the teacher has no layer 'layr1'" in done.err
    assert "Did you mean 'layer1'?" in done.err


@pytest.mark.slow
def test_teacher_and_student_may_be_any_models(soen: Path, tmp_path: Path) -> None:
    spiking = train_here(tmp_path / "spiking", *LIF)
    train_here(tmp_path / "student of spikes", *SOEN, *FOLLOW, f"teacher={spiking}")
    train_here(tmp_path / "spiking student", *LIF, *FOLLOW, f"teacher={soen}")


def test_teacher_trajectories_change_training_and_are_computed_once(
    soen: Path, tmp_path: Path
) -> None:
    taught = (*SOEN, *FOLLOW, f"teacher={soen}", f"data.root={tmp_path}")
    train_here(tmp_path / "first", *taught)
    (made,) = (tmp_path / FOLDER).iterdir()
    before = made.stat().st_mtime_ns
    train_here(tmp_path / "again", *taught)
    assert [path.stat().st_mtime_ns for path in (tmp_path / FOLDER).iterdir()] == [before]
    assert_same_run(tmp_path / "first", tmp_path / "again")
    plain = train_here(tmp_path / "plain", *SOEN)
    assert not same_weights(weights(plain), weights(tmp_path / "first"))
    # the teacher uses no random numbers of the student: at weight 0 it has no effect
    unweighted = train_here(tmp_path / "unweighted", *taught, "loss.distillation.weight=0")
    assert same_weights(weights(plain), weights(unweighted))


def test_mixtures_are_learned_from_the_teacher_alone(soen: Path, tmp_path: Path) -> None:
    taught = (
        *SOEN,
        *FOLLOW,
        f"teacher={soen}",
        f"data.root={tmp_path}",
        "loss.distillation.weight=30",
    )
    plain = train_here(tmp_path / "plain", *taught)
    mixed = train_here(tmp_path / "mixed", *taught, "teacher_mixtures=2")
    assert not same_weights(weights(plain), weights(mixed))
    updates = [max(row["step"] for row in rows(run)) for run in (plain, mixed)]
    assert updates == [10, 30]  # 40 samples, or with mixtures 120, in batches of 8
    logged = [row for row in rows(mixed) if "train/loss" in row]
    labelled = [row for row in logged if "train/accuracy" in row]
    assert len(labelled) == 10  # batches without labels have no accuracy


@pytest.mark.slow
def test_another_checkpoint_of_the_teacher_is_another_teacher(soen: Path, tmp_path: Path) -> None:
    taught = (*SOEN, *FOLLOW, "loss.distillation.weight=100")
    last = train_here(tmp_path / "last", *taught, f"teacher={soen}")
    untrained = tmp_path / "untrained"
    shutil.copytree(soen, untrained)
    best = untrained / "checkpoints" / "best.safetensors"
    train_here(tmp_path / "other", *SOEN, "seed=5")
    shutil.copy(tmp_path / "other" / "checkpoints" / "last.safetensors", best)
    by_name = train_here(
        tmp_path / "by_name", *taught, f"teacher={untrained}", "teacher_checkpoint=best"
    )
    by_file = train_here(tmp_path / "by_file", *taught, f"teacher={best}")
    assert not same_weights(weights(last), weights(by_name))
    assert same_weights(weights(by_name), weights(by_file))


def test_a_resumed_student_continues_with_the_same_teacher(soen: Path, tmp_path: Path) -> None:
    taught = (*SOEN, *FOLLOW, f"teacher={soen}", "data.in_memory=false")
    whole = train_here(tmp_path / "whole", *taught)
    run = tmp_path / "run"
    assert interrupt(run, 3, *taught).code == 130
    done = launch_here(f"resume={run}")
    assert done.code == 0, done.err
    assert_same_run(run, whole)
    refused = launch_here(f"resume={run}", "teacher=elsewhere")
    assert refused.code == 2
    assert "teacher: cannot change when a run is resumed" in refused.err


@pytest.mark.slow
def test_two_processes_follow_the_same_trajectories(soen: Path, tmp_path: Path) -> None:
    taught = (*SOEN, *FOLLOW, f"teacher={soen}", "loss.distillation.weight=100")
    one = train_here(tmp_path / "one", *taught)
    two = tmp_path / "two"
    done = launch_in_process(
        *taught, "hardware=ddp", "hardware.device=cpu", f"hydra.run.dir={two}", cwd=tmp_path
    )
    assert done.code == 0, done.err
    for row, twin in zip(rows(one), rows(two), strict=True):
        assert row == pytest.approx(twin, rel=2e-3, abs=1e-5)


@pytest.mark.slow
def test_chunks_and_accumulated_batches_get_matching_parts_of_the_trajectories(
    soen: Path, tmp_path: Path
) -> None:
    student = train_here(
        tmp_path / "student", *SOEN, *FOLLOW, f"teacher={soen}", "trainer.accumulate=2",
        "trainer.tbptt={length: 3, stride: 2}",
    )  # fmt: skip
    assert all(torch.isfinite(w).all() for w in weights(student).values())


def test_a_finished_student_does_not_need_its_teacher(soen: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(soen, teacher)
    student = train_here(tmp_path / "student", *SOEN, *FOLLOW, f"teacher={teacher}")
    shutil.rmtree(teacher)
    done = launch_here("mode=evaluate", f"run={student}", f"hydra.run.dir={tmp_path / 'again'}")
    assert done.code == 0, done.err
    assert (
        read(tmp_path / "again")["metrics"]["test/accuracy"]
        == (read(student)["metrics"]["test/accuracy"])
    )


def test_other_data_of_the_teacher_are_reported(soen: Path, tmp_path: Path) -> None:
    done = launch_here(
        *SOEN, *FOLLOW, f"teacher={soen}", "mode=check", "data.jitter_px=1", "data.batch_size=4"
    )
    assert done.code == 0, done.err
    printed = done.out + done.err
    assert "data of other settings: data.jitter_px (0 and 1)." in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*FOLLOW,), r"teacher: objective.paradigm=distillation needs one; give teacher="),
        (("teacher={teacher}",), r"teacher: is followed with objective.paradigm=distillation"),
        ((*FOLLOW, "teacher=nowhere"), "teacher=.*nowhere: there is no such run"),
        ((*FOLLOW, "teacher={teacher}", "teacher_checkpoint=bets"),
         "teacher_checkpoint: .* has no 'bets'. It has: .*Did you mean 'best'"),
        ((*FOLLOW, "teacher={teacher}", "data.tasks.all.classes=[0,1]", "data.image_size=6"),
         r"teacher: .* does not fit task 'all' of this run, with inputs of shape \[1, 6, 6\]"),
        ((*FOLLOW, "teacher={teacher}", "data/transforms=[time_shift]",
          "data.transforms.time_shift.max_ms=40"),
         "data.transforms.time_shift: TimeShift .*not the teacher's trajectories"),
        ((*FOLLOW[:1], "teacher={teacher}"), "no term learns from a teacher"),
        (("teacher_mixtures=2",), "teacher_mixtures: mixtures of samples have no label"),
    ],
)  # fmt: skip
def test_teachers_that_do_not_fit_are_refused(soen: Path, overrides, message) -> None:
    given = [override.replace("{teacher}", str(soen)) for override in overrides]
    done = launch_here(*SOEN, *given)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert re.search(message, done.err), done.err


def test_unfinished_teachers_and_sets(soen: Path, tmp_path: Path) -> None:
    interrupt(tmp_path / "stopped", 3, *SOEN)
    done = launch_here(*SOEN, *FOLLOW, f"teacher={tmp_path / 'stopped'}")
    assert done.code == 2
    assert "stopped is interrupted, not completed. Finish it with" in done.err
    whole = train_here(tmp_path / "set", *SOEN, "repeats=2", "phase.main.epochs=1")
    done = launch_here(*SOEN, *FOLLOW, f"teacher={whole}")
    assert done.code == 2
    assert "is a set of repeats; name one of them: repeat_0, repeat_1" in done.err


def test_a_teacher_of_other_width(tmp_path: Path) -> None:
    sequences = torch.rand(30, 4, 3).numpy()
    narrow, wide = (
        write_hdf5(
            tmp_path / f"{k}.h5",
            {"": {"data": sequences, "labels": torch.arange(30).numpy() % k}},
            frame_rate=50.0,
        )
        for k in (2, 3)
    )
    hdf5 = ("model=soen", "phase=single", "phase.main.epochs=1", "data=hdf5", "tracking=none",
            "callbacks=[]")  # fmt: skip
    teacher = train_here(tmp_path / "teacher", *hdf5, f"data.path={narrow}")
    done = launch_here(*hdf5, *FOLLOW, f"data.path={wide}", f"teacher={teacher}")
    assert done.code == 2
    assert "does not fit task 'all' of this run, with inputs of shape [3] and 3 outputs" in (
        done.err
    )


def test_the_value_range_of_the_training_split_is_saved(tmp_path: Path) -> None:
    """Evaluation scales other data as the training data."""
    generator = torch.Generator().manual_seed(0)
    sequences = torch.rand(40, 4, 3, generator=generator)
    labels = (sequences.mean((1, 2)) > 0.5).long().numpy()
    trained = write_hdf5(
        tmp_path / "a.h5", {"": {"data": sequences.numpy(), "labels": labels}}, frame_rate=50.0
    )
    other = write_hdf5(
        tmp_path / "b.h5", {"": {"data": sequences.numpy() * 9, "labels": labels}}, frame_rate=50.0
    )
    run = train_here(
        tmp_path / "run", "model=soen", "phase=single", "phase.main.epochs=1", "data=hdf5",
        "tracking=none", "callbacks=[]", f"data.path={trained}", "data.min_scale=0",
        "data.max_scale=0.5",
    )  # fmt: skip
    saved = OmegaConf.load(run / "config.yaml").data.value_range
    assert 0 <= saved[0] < saved[1] <= 1
    again = tmp_path / "again"
    done = launch_here(
        "mode=evaluate", f"run={run}", f"data.path={other}", f"hydra.run.dir={again}"
    )
    assert done.code == 0, done.err
    assert OmegaConf.load(again / "config.yaml").data.value_range == saved
    assert read(again)["metrics"]["test/loss"] != read(run)["metrics"]["test/loss"]
