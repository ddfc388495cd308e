"""Several metrics in one run: logged, monitored, the objective, in the matrix and the plots."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.helpers import TINY, launch_here, read, rows, train_here

METRICS = ("metric=[perplexity,accuracy,top_5]", "callbacks=[calibration,weight_bounds,plots]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arguments = [a for a in TINY if not a.startswith("callbacks")]
    return train_here(tmp_path_factory.mktemp("metrics") / "run", *arguments, *METRICS)


def test_all_are_measured_on_every_split(run: Path) -> None:
    metrics = read(run)["metrics"]
    logged = {name for row in rows(run) for name in row}
    for name in ("perplexity", "accuracy", "top_5", "loss"):
        assert {f"test/{name}", f"test/fast/{name}", f"val/{name}"} <= metrics.keys()
        assert {f"train/{name}", f"val/{name}"} <= logged
    assert metrics["test/top_5"] >= metrics["test/accuracy"]


def test_the_first_one_is_monitored_by_default(run: Path) -> None:
    report = read(run)
    assert report["objective_metric"] == "test/perplexity"
    assert report["objective"] == report["metrics"]["test/perplexity"]


def test_each_fills_a_matrix(run: Path) -> None:
    report = read(run)
    phases = [phase["test"] for phase in report["phases"]]
    found = {"perplexity": report["continual"], **report["continual_by_metric"]}
    for name, measures in found.items():
        matrix = [[row[task][name] for task in measures["tasks"]] for row in phases]
        assert measures["matrix"] == matrix
    assert "continual/accuracy/forgetting" in report["metrics"]
    assert (run / "plots" / "perplexity_matrix.png").is_file()
    assert (run / "plots" / "accuracy_matrix.png").is_file()


def test_any_can_be_monitored_and_be_the_objective(tmp_path: Path) -> None:
    chosen = ("trainer.monitor=val/top_5", "trainer.objective=continual/loss/bwt")
    run = train_here(tmp_path / "run", *TINY, METRICS[0], *chosen)
    report = read(run)
    assert report["objective"] == report["metrics"]["continual/loss/bwt"]
    refused = launch_here(*TINY, METRICS[0], "trainer.monitor=val/top5")
    assert refused.code == 2
    assert "trainer.monitor: this run produces no 'val/top5'" in refused.err
    assert "Did you mean 'val/top_5'?" in refused.err
