"""A run of an older version can be evaluated, resumed, compared, and its model loaded.

`old_run` was made at commit 4d13d4a with

    python launch.py "model.channels=[2,2,2]" model.dense_units=4 data.limit_train=16 \\
        data.limit_val=8 data.limit_test=8 data.batch_size=8 phase.task1.epochs=2 \\
        phase.task2.epochs=2 tracking=none "callbacks=[calibration,weight_bounds]" trainer.keep=9 \\
        trainer.checkpoint.steps=1 data.timings.fast.duration_ms=8 \\
        data.timings.slow.duration_ms=160 trainer.log.steps=1 name=old data.root=.data

Two of its checkpoints are kept: the last, and one from the middle of the first phase.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from neuro import models
from neuro.__main__ import main
from neuro.runs.record import RunRecord
from tests.e2e.helpers import launch_here, read, rows

OLD = Path(__file__).parent / "old_run"


def results(run: Path, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The numbers of a report that do not depend on the machine."""
    metrics = read(run)["metrics"]
    return {k: pytest.approx(v, rel=1e-4) for k, v in metrics.items() if k.startswith(prefixes)}


def interrupted(path: Path) -> Path:
    """The old run with the files of an interruption after its third update."""
    shutil.copytree(OLD, path, ignore=shutil.ignore_patterns("report.json", "model.safetensors"))
    (path / "checkpoints" / "step-00000003.safetensors").replace(
        path / "checkpoints" / "last.safetensors"
    )
    meta = {**read(OLD, "run_meta.json"), "status": "interrupted"}
    (path / "run_meta.json").write_text(json.dumps(meta))
    return path


def test_an_old_run_can_be_evaluated() -> None:
    done = launch_here("mode=evaluate", f"run={OLD}", "hydra.run.dir=evaluation")
    assert done.code == 0, done.err
    measured = read(Path("evaluation"))["metrics"]
    assert measured == results(OLD, ("test/",))


def test_an_old_run_can_be_resumed_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    run = interrupted(Path("outputs/old/resumed"))
    done = launch_here(f"resume={run}")
    assert done.code == 0, done.err
    metrics = read(run)["metrics"]
    assert {name: metrics[name] for name in read(OLD)["metrics"]} == results(OLD, ("",))
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(OLD)]
    shutil.copytree(OLD, "outputs/old/whole")
    assert main(["compare", "outputs"]) == 0
    table = capsys.readouterr().out
    assert "87.50" in table or "87.5" in table


def test_the_report_and_model_of_an_old_run_are_readable() -> None:
    report = RunRecord(OLD).report
    assert report is not None and report.continual is not None
    assert (report.score, report.objective_metric) == ("accuracy", "test/accuracy")
    assert [phase.name for phase in report.phases] == ["task1", "task2"]
    assert report.continual.matrix[-1] == [
        report.tested[task]["accuracy"] for task in report.continual.tasks
    ]
    model = models.load(OLD / "model.safetensors")
    with torch.no_grad():
        assert model(torch.zeros(2, 8, 1, 8, 8), dt_ms=1.0).values.shape == (2, 8, 10)
