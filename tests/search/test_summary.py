"""The printed summary of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro.search.results import StudyResult, TrialRow
from neuro.search.summary import print_summary

PARAMS = {"optimizer.lr": 0.00626, "model.dense_units": 32, "hardware.weight_bits": 8}
OBJECTIVES = (
    "hardware/accuracy",
    "continual/forgetting",
    "hardware/energy_uj_high",
    "hardware/cores",
)


def test_a_front_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        TrialRow(0, "complete", (0.925, -0.025, 899.31, 5.0), PARAMS, 1.0, None),
        TrialRow(1, "complete", (0.712, -0.5, 899.31, 5.0), PARAMS, 1.0, None),
        TrialRow(2, "fail", (), PARAMS, 1.0, "it burst"),
    ]
    directions = ("maximize", "minimize", "minimize", "minimize")
    print_summary(StudyResult("chip", OBJECTIVES, directions, rows, [0, 1], {}), Path("sweep"))
    out = capsys.readouterr().out
    assert "study chip: 3 trials (2 complete, 1 fail)" in out
    lines = [[cell.strip() for cell in line.split("│")] for line in out.splitlines() if "│" in line]
    assert lines == [
        ["", "0", "0.925", "-0.025", "899.3", "5", "0.00626", "32", "8", ""],
        ["", "1", "0.712", "-0.5", "899.3", "5", "0.00626", "32", "8", ""],
    ]
    for word in ("energy_uj_high", "forgetting", "weight_bits", "(minimize)"):
        assert word in out


def test_the_best_trial_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [TrialRow(4, "complete", (0.925,), PARAMS, 1.0, None)]
    print_summary(StudyResult("s", ("test/accuracy",), ("maximize",), rows, [4], {}), Path("sweep"))
    assert "best trial 4: test/accuracy 0.925  (optimizer.lr=0.00626" in capsys.readouterr().out
