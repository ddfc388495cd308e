"""Failing disks, closed terminals and concurrent processes: messages and intact files."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuro.io import checkpoint, files
from neuro.runs import lock
from neuro.runs.record import RunRecord
from neuro.runs.state import read_state
from tests.e2e.forked import Launched
from tests.e2e.helpers import ROOT, SINGLE, assert_same_run, fork, launch_here, read, train_here

#: enough updates to be interrupted in the middle
LONG = (*SINGLE, "phase.task1.epochs=2000", "trainer.checkpoint.steps=2")


@contextmanager
def begun_run(run: Path) -> Iterator[Launched]:
    """A run in a separate process that has saved a checkpoint; killed on exit."""
    process = fork(*LONG, f"hydra.run.dir={run}", cwd=run.parent)
    last = run / "checkpoints" / "last.safetensors"
    until = time.monotonic() + 120
    try:
        while not last.exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_two_processes_do_not_run_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun_run(run) as process:
        assert RunRecord(run).status == "running"
        state = read_state(run)
        assert (state["status"], state["process"]["pid"]) == ("running", process.pid)
        assert (state["phase"], state["phases"]) == ("task1", 1)
        done = launch_here(f"resume={run}")
        assert done.code == 2
        assert f"{run}: process {process.pid} on " in done.err
        assert "Traceback" not in done.err
    assert RunRecord(run).status == "killed"
    assert (run / lock.FILE).exists()


def test_only_one_of_two_processes_can_resume_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun_run(run):
        pass
    two = [fork(f"resume={run}", cwd=tmp_path) for _ in range(2)]
    try:
        until = time.monotonic() + 120
        while all(process.poll() is None for process in two):
            assert time.monotonic() < until
            time.sleep(0.1)
        refused, other = sorted(two, key=lambda process: process.poll() is None)
        _, err = refused.communicate(timeout=120)
        assert refused.returncode == 2
        assert f"{run}: process {other.pid} on " in err
        assert other.poll() is None
    finally:
        for process in two:
            process.kill()
            process.wait()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations are not negative, and logged rows are read in the order of updates."""
    now, readings = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() - 60 * next(readings))
    run = train_here(tmp_path / "run", *SINGLE)
    assert read(run)["seconds"] > 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["time"] > rows[-1]["time"]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert launch_here("mode=evaluate", f"run={run}").code == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_terminal_signals_save_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun_run(run) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "python launch.py resume=" in err
    assert "Error:" not in err
    assert read(run, "run_meta.json")["status"] == "interrupted"
    checkpoint.load(run / "checkpoints" / "last.safetensors")


@pytest.mark.slow
def test_output_cut_by_head(tmp_path: Path) -> None:
    given = shlex.join([*SINGLE, "hydra.run.dir=run", "callbacks=[progress]"])
    command = f"{sys.executable} {ROOT / 'launch.py'} {given} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path / "run", "run_meta.json")["status"] == "completed"
    log = (tmp_path / "run" / "run.log").read_text()
    for part in ("Phase 1/1 task1", "update ", "validation after update", "test accuracy", "run:"):
        assert part in log


def failing(function: Callable[..., None], number: int) -> Callable[..., None]:
    """A function that raises an OSError for files of a run after the first checkpoints."""
    calls = 0

    def call(source: Path, target: Path) -> None:
        nonlocal calls
        calls += "last.safetensors" in str(target)
        if calls > 2:
            raise OSError(number, os.strerror(number), str(target))
        function(source, target)

    return call


OFTEN = (*SINGLE, "trainer.checkpoint.steps=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted reference run."""
    return train_here(tmp_path_factory.mktemp("whole") / "run", *OFTEN)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_in_mid_run(
    number: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", failing(os.replace, number))
        done = launch_here(*OFTEN, f"hydra.run.dir={run}")
    assert done.code == 130, done.err
    assert "last.safetensors" in done.err
    assert "The last checkpoint is valid." in done.err
    assert f"python launch.py resume={run}" in done.err
    assert "Traceback" not in done.err
    # a full disk still allows the status to be overwritten; the other errors allow no writes
    assert RunRecord(run).status == ("failed" if number == errno.ENOSPC else "killed")
    done = launch_here(f"resume={run}")
    assert done.code == 0, done.err
    assert_same_run(run, whole)


def test_a_directory_that_is_moved(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    with begun_run(run) as process:
        run.rename(moved)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "was moved or deleted" in err
    assert RunRecord(moved).status == "killed"
    checkpoint.load(moved / "checkpoints" / "last.safetensors")


def test_symbolic_links_to_runs_are_followed(task1: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "linked").symlink_to(task1)
    (tmp_path / "outputs" / "around").symlink_to(tmp_path / "outputs")
    done = launch_here(*SINGLE, "init_from=latest", "mode=check")
    assert done.code == 0, done.err


def test_a_copied_run_does_not_become_the_latest(task1: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(task1, tmp_path / "outputs" / "older"))
    meta = (older / "run_meta.json").read_text()
    finished = read(older, "run_meta.json")["finished"]
    (older / "run_meta.json").write_text(meta.replace(finished, "2026-01-01T00:00:00+0000"))
    assert RunRecord(older).time == 1767225600.0
