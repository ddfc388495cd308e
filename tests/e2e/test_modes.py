"""Modes on finished runs, and the files of a run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args

import h5py
import pytest

from neuro.config.modes import Mode
from neuro.run import MODES
from neuro.runs.record import latest_run
from tests.e2e.helpers import (
    SINGLE,
    SURROGATE,
    TINY,
    assert_same_run,
    launch_here,
    launch_in_process,
    load,
    read,
    rows,
    same_weights,
    train_here,
    weights,
)
from tests.e2e.test_bad_input import hdf5


def test_every_mode_has_a_function() -> None:
    assert set(MODES) == set(get_args(Mode))
    assert all(callable(resolve_name(name)) for name in MODES.values())


# -- the run directory ----------------------------------------------------------------------------


def test_files_of_a_run(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert {"config.yaml", "run_meta.json", "metrics.jsonl", "report.json", "checkpoints"} <= names
    checkpoints = {p.name for p in (finished / "checkpoints").glob("*.safetensors")}
    assert {f"{n}.safetensors" for n in ("last", "best", "task1-final", "task2-final")} <= (
        checkpoints
    )
    assert not list(finished.rglob("*.tmp"))
    assert not (finished / ".hydra").exists()
    meta = read(finished, "run_meta.json")
    assert meta["status"] == "completed"
    assert meta["mode"] == "train"
    assert meta["seed"] == 0
    assert meta["error"] is None
    assert "data.limit_train=20" in meta["overrides"]


def test_the_report(finished: Path) -> None:
    report = read(finished)
    metrics, continual = report["metrics"], report["continual"]
    assert report["objective"] == metrics[report["objective_metric"]]
    assert continual["tasks"] == ["fast", "slow"]
    matrix = continual["matrix"]
    assert len(matrix) == 2
    assert matrix[1] == [metrics["test/fast/accuracy"], metrics["test/slow/accuracy"]]
    assert continual["acc"] == pytest.approx(sum(matrix[1]) / 2)
    assert continual["bwt"] == pytest.approx(matrix[1][0] - matrix[0][0])
    fractions = [v for k, v in metrics.items() if k.endswith("accuracy")]
    fractions += [value for row in matrix for value in row]
    assert all(0 <= value <= 1 for value in fractions)
    assert report["run_id"] == read(finished, "run_meta.json")["run_id"]
    assert report["hardware"]["scores"] == {
        task: {"accuracy": metrics[f"test/{task}/accuracy"]} for task in ("fast", "slow")
    }


def test_the_metrics(finished: Path) -> None:
    logged = rows(finished)
    steps = [row["step"] for row in logged]
    assert steps == sorted(steps)
    names = {name for row in logged for name in row}
    assert {"val/accuracy", "val/loss", "test/fast/accuracy", "test/slow/loss"} <= names


def test_plots() -> None:
    arguments = [a for a in TINY if not a.startswith("callbacks")]
    run = train_here(Path("run"), *arguments, "callbacks=[calibration,plots]")
    assert {p.stem for p in (run / "plots").iterdir()} >= {"training", "accuracy_matrix"}


def test_output_in_a_pipe(tmp_path: Path, finished: Path) -> None:
    """Plain readable lines; and the same numbers as in another process (`finished`)."""
    arguments = [a for a in TINY if not a.startswith("callbacks")]
    done = launch_in_process(
        *arguments, "callbacks=[calibration,weight_bounds,progress]", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert done.err == ""
    assert "\x1b" not in done.out
    assert "\r" not in done.out
    assert "Using device: cpu, 8 samples per update" in done.out
    for text in ("Phase 1/2 task1", "test accuracy", "forgetting", "test/accuracy: 0.", "run:"):
        assert text in done.out
    (run,) = (tmp_path / "outputs" / "ltgate-continual").iterdir()
    assert f"run:   {run.relative_to(tmp_path)}\n" in done.out  # the minimum length
    assert_same_run(run, finished)


# -- seeds and names ------------------------------------------------------------------------------


def test_another_seed_gives_other_numbers(task1: Path) -> None:
    again = train_here(Path("again"), *SINGLE, "seed=0")
    assert_same_run(again, task1)
    other = train_here(Path("other"), *SINGLE, "seed=1")
    assert not same_weights(weights(other), weights(task1))
    assert read(other, "run_meta.json")["seed"] == 1


def test_ids_differ() -> None:
    runs = [train_here(Path(f"{i}/run"), *SINGLE) for i in range(2)]
    assert launch_here(*SINGLE).code == 0
    assert launch_here(*SINGLE).code == 0
    found = [*runs, *Path("outputs/ltgate-task1").iterdir()]
    ids = {read(run, "run_meta.json")["run_id"] for run in found}
    assert len(ids) == 4
    assert {run.name for run in found[2:]} <= ids


# -- from other weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [(), SURROGATE], ids=["local", "surrogate"])
def test_two_runs_equal_one_curriculum(rule: tuple[str, ...]) -> None:
    """phase=task1, then phase=task2 init_from=latest, keeps thresholds and plasticity."""
    tiny = (*TINY[:-2], "callbacks.calibration.all_timings=false", *rule)
    lengths = ("phase.task1.epochs=2", "phase.task2.epochs=2")
    whole = train_here(Path("whole"), *tiny, *lengths)
    for arguments in (
        ("phase=task1", lengths[0]),
        ("phase=task2", lengths[1], "init_from=latest"),
    ):
        done = launch_here(*tiny, *arguments)
        assert done.code == 0, done.err
    assert "Starting from the weights of " in done.out
    assert "Calibrated" not in done.out
    (first,) = Path("outputs/ltgate-task1").iterdir()
    (second,) = Path("outputs/ltgate-task2").iterdir()
    assert same_weights(weights(first), weights(whole, "task1-final"))
    assert str(first) in (second / "config.yaml").read_text()  # `latest` is resolved
    before, after = weights(first), weights(second)
    assert float(after["plasticity"]) == 0.0 == float(before["plasticity"])
    for name in before:
        if name.endswith("threshold"):
            assert before[name].equal(after[name])
    report = read(second)["metrics"]
    assert 0 <= report["test/fast/accuracy"] <= 1
    if not rule:  # hidden layers are frozen, so the order of batches has no effect
        for name in before:
            if name.startswith("layers."):
                assert before[name].equal(after[name])


def test_init_from_a_checkpoint_file(finished: Path) -> None:
    file = finished / "checkpoints" / "task1-final.safetensors"
    done = launch_here(*SINGLE, f"init_from={file}", "optimizer.lr=1e-9", "hydra.run.dir=run")
    assert done.code == 0, done.err
    done = launch_here(*SINGLE, f"init_from={finished}", "checkpoint=nothing")
    assert "has no 'nothing'. It has: best, last" in done.err


def test_matching_weights_are_loaded(task1: Path) -> None:
    done = launch_here(
        *SINGLE, f"init_from={task1}", "model.dense_units=8", "init_strict=false",
        "model.readout_layers=[conv3]", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "init_strict=false: not taken from" in done.out
    assert "layers.dense" in done.out
    assert "layers.conv1" not in done.out


# -- evaluate and predict -------------------------------------------------------------------------


def evaluation(*arguments: str) -> dict[str, float]:
    """The metrics of an evaluation that must succeed."""
    directory = Path(f"evaluation-{len(list(Path().iterdir()))}")
    done = launch_here("mode=evaluate", *arguments, f"hydra.run.dir={directory}")
    assert done.code == 0, done.err
    assert "test accuracy" in done.out
    metrics: dict[str, float] = read(directory)["metrics"]
    return metrics


def test_evaluation_repeats_the_report(finished: Path) -> None:
    reported = {k: v for k, v in read(finished)["metrics"].items() if k.startswith("test/")}
    assert evaluation(f"run={finished}") == reported
    first = evaluation(f"run={finished}", "checkpoint=task1-final")
    row = read(finished)["phases"][0]["test"]
    for task in ("fast", "slow"):
        assert first[f"test/{task}/accuracy"] == row[task]["accuracy"]
    assert evaluation(f"run={finished}", "checkpoint=best")


def test_evaluation_on_other_data(finished: Path, tmp_path: Path) -> None:
    more = evaluation(f"run={finished}", "data.limit_test=30")
    assert more["test/loss"] != read(finished)["metrics"]["test/loss"]
    path = tmp_path / "own.h5"
    hdf5(path)
    done = launch_here("mode=evaluate", f"run={finished}", "data=hdf5", f"data.path={path}")
    assert "from another architecture" in done.err  # 4 x 4 pixels, and 3 classes
    with h5py.File(path, "r+") as file:
        for split in ("train", "val", "test"):
            data = file[split]["data"][:].repeat(2, -1).repeat(2, -2)
            del file[split]["data"]
            file[split]["data"] = data
    metrics = evaluation(f"run={finished}", "data=hdf5", f"data.path={path}", "data.outputs=10")
    assert set(metrics) == {"test/all/accuracy", "test/all/loss", "test/accuracy", "test/loss"}


def test_missing_checkpoint(finished: Path) -> None:
    done = launch_here("mode=evaluate", f"run={finished}", "checkpoint=task3-final")
    assert done.code == 2
    for name in ("best", "last", "task1-final", "task2-final"):
        assert name in done.err
    assert not Path("outputs").exists()


def test_prediction(finished: Path) -> None:
    done = launch_here("mode=predict", f"run={finished}", "hydra.run.dir=predictions")
    assert done.code == 0, done.err
    with open("predictions/predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["task"] for row in table} == {"fast", "slow"}
    for row in table:
        scores = [float(row[f"score_{k}"]) for k in range(10)]
        assert scores.index(max(scores)) == int(row["prediction"])
    for task in ("fast", "slow"):
        own = [row for row in table if row["task"] == task]
        right = sum(row["label"] == row["prediction"] for row in own)
        assert right / len(own) == read(finished)["metrics"][f"test/{task}/accuracy"]


def test_latest_is_a_training_run(task1: Path) -> None:
    shutil.copytree(task1, "outputs/ltgate-task1/a")
    assert launch_here("mode=evaluate", "run=outputs/ltgate-task1/a").code == 0
    assert launch_here("mode=predict", "run=outputs/ltgate-task1/a").code == 0
    assert latest_run("outputs").path.name != "a"  # the newest run; the newest training run is:
    done = launch_here(*SINGLE, "init_from=latest")
    assert done.code == 0, done.err
    assert "ltgate-task1/a/checkpoints/last" in done.out


def test_check_trains_nothing() -> None:
    done = launch_here(*TINY, "mode=check", "hydra.run.dir=checked")
    assert done.code == 0, done.err
    assert "schedule: checked/plots/schedule.png" in done.out
    left = [path for path in Path().rglob("*") if path.is_file()]
    assert left == [Path("checked/plots/schedule.png")]
    assert left[0].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [(), SURROGATE], ids=["local rule", "gradient"])
def test_lr_find_suggests_and_trains_nothing(options: tuple[str, ...], task1: Path) -> None:
    sweep = ("trainer.lr_find.steps=20", "trainer.lr_find.min_lr=1e-4", "trainer.lr_find.max_lr=1")
    done = launch_here(*TINY, *options, *sweep, "mode=lr_find", "hydra.run.dir=found")
    assert done.code == 0, done.err
    assert "plot: found/plots/lr_find.png" in done.out
    assert "suggested learning rate: " in done.out or "no rate to suggest" in done.out
    left = [path for path in Path().rglob("*") if path.is_file()]
    assert left == [Path("found/plots/lr_find.png")]
    done = launch_here(*TINY, "mode=lr_find", f"hydra.run.dir={task1}")
    assert done.code == 2
    assert "holds a run already" in done.err


def test_auto_values_are_resolved_and_reported() -> None:
    auto = ("optimizer.lr=auto", "scheduler=cosine", "trainer.lr_find.steps=30")
    run = train_here(Path("run"), *SINGLE, *SURROGATE, *auto, "trainer.log.steps=1")
    found = read(run)["found_lr"]["task1"]
    assert max(row.get("train/lr", 0) for row in rows(run)) == pytest.approx(found)
    assert [row["lr_find/suggestion"] for row in rows(run) if "lr_find/suggestion" in row] == [
        found
    ]
    assert (run / "plots/lr_find.png").is_file()
    assert read(run, "run_meta.json")["found_lr"] == {"task1": found}
    done = launch_here(*TINY, "mode=check", "optimizer.lr=auto")
    assert done.code == 0, done.err
    assert "auto x (1, 1, 1)" in done.out


# -- launcher -------------------------------------------------------------------------------------


def test_overrides_in_the_help_are_valid() -> None:
    done = launch_here("--help")
    assert done.code == 0
    for option in ("ltgate", "temporal_mnist", "onecycle", "continual", "task1"):
        assert option in done.out
    section = done.out.partition("Common overrides:")[2]
    lines = [line.split()[0] for line in section.splitlines() if line.startswith("  ")]
    overrides = [line.rstrip(";") for line in lines if "=" in line]
    assert len(overrides) >= 20
    passing = ("init_from", "resume", "mode", "hydra.run.dir", "hardware", "experiment=litho")
    given = [o for o in overrides if not o.startswith(passing)]
    for i, override in enumerate(given):  # the groups first: they set keys that follow
        if override.startswith("phase.task1.steps"):
            given[i] = f"{override} phase.task1.epochs=null"
    flat = sorted((o for entry in given for o in entry.split()), key=lambda o: "." in o)
    done = launch_here(
        *TINY, *flat, "model.readout=linear", "tracking=none", "mode=check",
        "trainer.direction=min",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_multirun() -> None:
    small = [a for a in TINY if not a.startswith("model.")]
    done = launch_here(
        "-m", *small, "model.channels=[4,4,8]", "model.dense_units=16", "model=ltgate,lif",
        "seed=0,1",
    )  # fmt: skip
    assert done.code == 0, done.err
    runs = sorted(path.parent for path in Path("multirun").rglob("report.json"))
    assert [run.name for run in runs] == ["0", "1", "2", "3"]
    assert len({run.parent for run in runs}) == 1
    metas = [read(run, "run_meta.json") for run in runs]
    assert [m["seed"] for m in metas] == [0, 1, 0, 1]
    assert [m["name"] for m in metas] == ["ltgate-continual"] * 2 + ["lif-continual"] * 2
    assert len({m["run_id"] for m in metas}) == 4
    assert all(load(run)["progress"]["step"] == 12 for run in runs)
    assert not Path("outputs").exists()
    json.dumps(metas, allow_nan=False)
