"""Chunks, carried states and schedules from the command line to the finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.helpers import SINGLE, SURROGATE, assert_same_run, read, rows, train_here, weights
from tests.e2e.helpers import launch_here as launch
from tests.e2e.test_resume import interrupt

EVERYTHING = (
    *SINGLE, *SURROGATE, "trainer.tbptt={length:4,stride:3}", "trainer.stateful.training=true",
    "trainer.stateful.take=random", "trainer.stateful.test=true",
    "callbacks=[calibration,pooling_scale,noise,quantisation]",
    "callbacks.pooling_scale.end=7.0", "trainer.log.steps=1",
)  # fmt: skip


def test_from_the_command_line_to_the_finished_run() -> None:
    run = train_here(Path("run"), *EVERYTHING)
    named = {name for row in rows(run) for name in row}
    for name in ("train/pooling_scale", "train/noise/0", "val_quantised/accuracy"):
        assert name in named
    tested = read(run)["metrics"]["test/fast/loss"]
    done = launch("mode=evaluate", f"run={run}", "hydra.run.dir=again")
    assert done.code == 0, done.err
    assert read(Path("again"))["metrics"]["test/fast/loss"] == pytest.approx(tested)


def test_resumed_in_the_middle_of_an_epoch() -> None:
    whole = train_here(Path("whole"), *EVERYTHING)
    done = interrupt(Path("part"), 2, *EVERYTHING)
    assert "Interrupted" in done.err
    assert launch("resume=part").code == 0
    assert_same_run(whole, Path("part"))
    assert weights(whole).keys() == weights(Path("part")).keys()
