"""Finding and reading run directories."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuro.errors import CheckpointError, ConfigError
from neuro.runs.record import RunRecord, find_runs, latest_run

ROOT = Path(__file__).parents[2]


def make(path, status="completed", finished=1.0, **meta):
    path.mkdir(parents=True)
    meta = {"run_id": path.name, "name": "exp", "status": status, "seed": 0, **meta}
    meta |= {"started": 0.5, "finished": finished}
    (path / "run_meta.json").write_text(json.dumps(meta))
    (path / "config.yaml").write_text("seed: 0\noptimizer:\n  lr: 1.0e-05\n")
    return path


def test_a_run_records_its_settings_and_results(tmp_path):
    path = make(tmp_path / "r1", tags=["a"])
    report = {"objective": 0.9, "metrics": {"test/accuracy": 0.9}}
    (path / "report.json").write_text(json.dumps(report))
    (path / "metrics.jsonl").write_text(
        '{"step": 1, "time": 0, "train/loss": 2.0}\n'
        '{"step": 2, "time": 1, "train/loss": null}\n'
        '{"step": 2, "time": 1, "val/accuracy": 0.5}\n'
        '{"step": 3, "time": 2, "train/lo'
    )
    run = RunRecord(path)
    assert run.config == {"seed": 0, "optimizer": {"lr": 1e-5}, "metric": {}}  # a later key
    assert (run.status, run.name, run.seed, run.meta["tags"]) == ("completed", "exp", 0, ["a"])
    assert run.report is not None
    assert (run.report.objective, run.report.metrics) == (0.9, {"test/accuracy": 0.9})
    metrics = run.metrics()
    assert metrics["train/loss"].steps == (1, 2)
    assert metrics["train/loss"].values[0] == 2.0 and math.isnan(metrics["train/loss"].values[1])
    assert metrics["val/accuracy"] == ((2,), (0.5,))
    assert set(metrics) == {"train/loss", "val/accuracy"}


def test_a_run_may_lack_metrics_and_report(tmp_path):
    run = RunRecord(make(tmp_path / "r1", status="running"))
    assert run.metrics() == {} and run.report is None


def test_missing_parts_of_a_run_directory_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such run directory"):
        RunRecord(tmp_path / "nothing")
    path = make(tmp_path / "out" / "r1")
    with pytest.raises(
        CheckpointError, match=r"run_meta.json and config.yaml missing. Runs in it: r1"
    ):
        RunRecord(tmp_path / "out")
    (path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"The run is .*r1\."):
        RunRecord(path / "checkpoints")
    (path / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"not a run directory: config\.yaml missing"):
        RunRecord(path)


def test_damaged_files_are_named(tmp_path):
    path = make(tmp_path / "r1")
    (path / "run_meta.json").write_text("{")
    (path / "config.yaml").write_text("a: [")
    run = RunRecord(path)
    with pytest.raises(CheckpointError, match=r"run_meta\.json: cannot be read"):
        run.status  # noqa: B018
    with pytest.raises(CheckpointError, match=r"config\.yaml: not valid YAML"):
        run.config  # noqa: B018
    (path / "config.yaml").write_text("- 1")
    with pytest.raises(CheckpointError, match="expected a mapping, found list"):
        RunRecord(path).config  # noqa: B018


def test_runs_are_found_at_any_level(tmp_path):
    make(tmp_path / "outputs" / "exp" / "r1")
    make(tmp_path / "multirun" / "sweep" / "0")
    make(tmp_path / "multirun" / "sweep" / "0" / "wandb" / "copy")  # not a run directory
    (tmp_path / "empty").mkdir()
    found = [run.path.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)]
    assert found == ["multirun/sweep/0", "outputs/exp/r1"]
    assert [run.path.name for run in find_runs(tmp_path / "outputs" / "exp" / "r1")] == ["r1"]
    assert find_runs(tmp_path / "empty") == []
    with pytest.raises(ConfigError, match="no such directory"):
        find_runs(tmp_path / "nothing")


def test_the_latest_run_is_the_newest_completed_one(tmp_path):
    make(tmp_path / "a", finished="2026-01-02T10:00:00+00:00")
    make(tmp_path / "b", finished="2026-01-02T12:00:00+03:00")  # 09:00 UTC: before a
    make(tmp_path / "c", finished="2026-01-03T10:00:00Z", status="failed")
    make(tmp_path / "d", finished=None, status="interrupted")
    (make(tmp_path / "e") / "run_meta.json").write_text("broken")
    assert latest_run(tmp_path).path.name == "a"
    assert latest_run(tmp_path, accept=lambda run: run.path.name == "b").path.name == "b"
    with pytest.raises(CheckpointError, match="2 completed, but none of them fits"):
        latest_run(tmp_path, accept=lambda run: False)


def test_without_a_completed_run_the_error_lists_other_runs(tmp_path):
    with pytest.raises(CheckpointError, match="Found: no run at all"):
        latest_run(tmp_path / "outputs")
    make(tmp_path / "a", status="failed")
    make(tmp_path / "b", status="failed")
    make(tmp_path / "c", status="interrupted")
    with pytest.raises(CheckpointError, match="Found: 2 failed, 1 interrupted"):
        latest_run(tmp_path)


def test_reading_many_runs_is_quick(tmp_path):
    config = "".join(f"group{i}:\n" + "".join(f"  key{j}: {j}.5\n" for j in range(20))
                     for i in range(10))  # fmt: skip
    rows = "".join(json.dumps({"step": i, "time": i, "train/loss": 1.0}) + "\n" for i in range(200))
    for i in range(200):
        path = make(tmp_path / str(i))
        (path / "config.yaml").write_text(config)
        (path / "metrics.jsonl").write_text(rows)
    began = time.process_time()
    for run in find_runs(tmp_path):
        assert run.config and run.meta and run.metrics()
    assert time.process_time() - began < 4


def test_large_packages_are_not_imported():
    code = (
        "import sys, neuro.runs.record, neuro.analysis.plots.training;"
        "import neuro.analysis.compare.statistics;"
        "heavy = {'torch', 'matplotlib', 'scipy', 'pandas', 'wandb'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert output.stdout.strip() == "[]"
