"""report.json: one format for all kinds of runs, with optional parts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from neuro.errors import CheckpointError
from neuro.runs.report import Continual, Criterion, MemberResult, PhaseResult, RepeatResult, Report

CURRICULUM = Continual(["a", "b"], [[0.5, 0.0], [0.25, 1.0]], {"b": 0.0}, 0.625, -0.25, 0.0, 0.25)
FULL = Report(
    metrics={"test/accuracy": 0.5, "test/a/accuracy": 0.25, "test/a/loss": 2.0, "val/loss": 1.0},
    objective=0.5,
    objective_metric="test/accuracy",
    run_id="r",
    score="accuracy",
    continual=CURRICULUM,
    continual_by_metric={"loss": CURRICULUM},
    phases=[PhaseResult("one", "a+b", {"a": {"accuracy": 0.25}})],
    found_lr={"one": 0.01},
    evaluated=["x/last.safetensors"],
    ensemble="mean",
    members=[MemberResult("x", {"test/accuracy": 0.5})],
    hardware={"backend": "host (cpu)", "accuracy": {"a": 0.25}},
    aggregate={"test/accuracy": {"mean": 0.5, "std": None}},
    repeats=[RepeatResult("repeat_0", 3, 0.5)],
    criteria=[Criterion("norm", 0.5, "<", 2.0, met=True)],
    seconds=1.5,
)


def test_reports_are_loaded_as_saved(tmp_path: Path) -> None:
    FULL.save(tmp_path)
    assert Report.load(tmp_path) == FULL
    assert FULL.tested == {"a": {"accuracy": 0.25, "loss": 2.0}}
    assert list(FULL.continual_of) == ["accuracy", "loss"]


def test_parts_that_a_run_does_not_have_are_left_out(tmp_path: Path) -> None:
    Report({"test/loss": math.inf}, objective_metric="test/loss", run_id="r").save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "metrics": {"test/loss": None},
        "objective": None,
        "objective_metric": "test/loss",
        "run_id": "r",
    }
    assert math.isnan(Report.load(tmp_path).metrics["test/loss"])
    assert Report.load(tmp_path).continual_of == {}


def test_reports_of_other_versions_are_read(tmp_path: Path) -> None:
    """Without the name of the score, and with keys unknown to this version."""
    continual = {"tasks": ["a"], "matrix": [[1.0]], "initial": None}
    continual |= dict.fromkeys(("acc", "bwt", "fwt", "forgetting"))
    old = {"metrics": {"test/accuracy": 1.0}, "continual": continual, "yet_unknown": 3}
    (tmp_path / "report.json").write_text(json.dumps(old))
    report = Report.load(tmp_path)
    assert list(report.continual_of) == ["accuracy"]
    assert report.objective is None


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"metrics": ', '{"metrics": {}, "phases": [3]}', '{"metrics": [1]}']
)
def test_a_damaged_report_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"report\.json: "):
        Report.load(tmp_path)
