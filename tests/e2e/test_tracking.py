"""All trackers at once, and over an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro.analysis.runs import RunReader
from tests.e2e.helpers import SINGLE, launch_here, rows
from tests.e2e.test_resume import interrupt

ALL = ("tracking=[csv,tensorboard,wandb,mlflow]", "trainer.log.steps=1")


@pytest.mark.slow
def test_every_tracker_has_every_number_once() -> None:
    mlflow = pytest.importorskip("mlflow")
    arguments = [argument for argument in SINGLE if not argument.startswith("tracking=")]
    interrupt(Path("run"), 3, *arguments, *ALL)
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    logged = [(row["step"], row["train/loss"]) for row in rows(Path("run")) if "train/loss" in row]
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    client = mlflow.MlflowClient(tracking_uri=Path("mlruns").resolve().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("neuro").experiment_id])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == logged
    header, *lines = (Path("run") / "metrics.csv").read_text().splitlines()
    assert "train/loss" in header and len(lines) == len({row["step"] for row in rows(Path("run"))})
    assert len(list(Path("run/wandb").glob("offline-run-*"))) == 2
    events = RunReader("run/tensorboard").scalars("^train/loss$")
    assert list(events["step"]) == [1, 2, 3, 4, 5, 6]
    assert list(events["value"]) == pytest.approx([value for _, value in logged])
