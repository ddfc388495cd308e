"""Sweeps over a list of jobs: completed by the same command, failures, other configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro.runs import lock
from tests.e2e.helpers import SINGLE, Outcome, assert_same_run, launch_here, read, train_here
from tests.e2e.test_resume import interrupted_at

SWEEP = Path("sweep")
COMMAND = ("-m", *SINGLE, "trainer.log.steps=1", f"hydra.sweep.dir={SWEEP}")


def sweep(*overrides: str) -> Outcome:
    return launch_here(*COMMAND, *overrides)


def test_the_same_command_completes_an_interrupted_sweep() -> None:
    with interrupted_at(3):
        stopped = sweep("seed=0,1")
    assert stopped.code == 130
    advice = f"The same command with hydra.sweep.dir={SWEEP} completes the sweep."
    assert stopped.err.endswith(f"\n{advice}\n")
    assert [path.name for path in SWEEP.iterdir() if path.is_dir()] == ["0"]
    done = sweep("seed=0,1")
    assert done.code == 0, done.err
    for seed in (0, 1):
        whole = train_here(Path(f"alone{seed}"), *SINGLE, "trainer.log.steps=1", f"seed={seed}")
        assert_same_run(SWEEP / str(seed), whole)
    assert len(read(SWEEP / "0", "run_meta.json")["resumed"]) == 1
    assert "resumed" not in read(SWEEP / "1", "run_meta.json")

    before = [(SWEEP / name / "metrics.jsonl").stat().st_mtime_ns for name in "01"]
    again = sweep("seed=0,1")  # reads the runs
    assert again.code == 0 and again.out.count("is complete") == 2
    assert "over seeds" in again.out
    assert [(SWEEP / name / "metrics.jsonl").stat().st_mtime_ns for name in "01"] == before


def test_a_variant_is_completed_too() -> None:
    arguments = ("hydra/sweeper=variants", "hydra.sweeper.variants={slow:['optimizer.lr=0.001']}")
    assert sweep(*arguments, "seed=0").code == 0
    done = sweep(*arguments, "seed=0,1")
    assert done.code == 0, done.err
    assert done.out.count("is complete") == 1
    assert read(SWEEP / "1", "run_meta.json")["name"] == "slow"


def test_failed_jobs_are_reported_at_once_and_at_the_end() -> None:
    other = train_here(Path("other"), *SINGLE)
    done = sweep(f"init_from=nowhere,{other}", "seed=0,1")
    assert done.code == 2
    failed = "init_from=nowhere: nowhere: there is no such run directory."
    for number in (0, 1):
        assert f"\nJob #{number} failed: {failed}\n" in done.err
    assert done.err.index("Job #0 failed") < done.err.index("Job #1 failed")
    assert done.err.endswith(
        f"Error: 2 of 4 jobs failed. The same command with hydra.sweep.dir={SWEEP} runs what is "
        f"missing.\n  #0: {failed}\n  #1: {failed}\n"
    )
    assert "over seeds" in done.out  # the table of the two other jobs
    assert (SWEEP / "2" / "report.json").exists() and not (SWEEP / "0").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("seed=5",), "sweep/0 has a run of another config (seed: 0, now 5)."),
        (
            ("seed=0,1", "optimizer.lr=0.5"),
            "sweep/0 has a run of another config (optimizer.lr: 0.01, now 0.5) (job seed=0).",
        ),
        (("seed=0", "phase.task1.epochs=3"), "(phase.task1.epochs: 2, now 3)."),
    ],
)
def test_runs_of_another_config_are_refused(overrides: tuple[str, ...], message: str) -> None:
    assert sweep("seed=0").code == 0
    before = (SWEEP / "0" / "run_meta.json").read_bytes()
    done = sweep(*overrides)
    assert done.code == 2
    assert message in done.err and "give the same overrides as before." in done.err
    assert not (SWEEP / "1").exists()
    assert (SWEEP / "0" / "run_meta.json").read_bytes() == before


def test_a_run_that_is_still_going_on_is_refused() -> None:
    with interrupted_at(1):
        assert sweep("seed=0").code == 130
    meta = SWEEP / "0" / "run_meta.json"
    meta.write_text(meta.read_text().replace('"interrupted"', '"running"'))
    with lock.locked(SWEEP / "0"):
        done = sweep("seed=0")
    assert done.code == 2
    assert "sweep/0 is still running. Wait for it" in done.err
