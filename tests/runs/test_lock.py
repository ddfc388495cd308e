"""One process at a time writes to a run; a killed process leaves no lock behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuro.errors import ConfigError, RunInUse
from neuro.runs import lock
from neuro.runs.record import RunRecord

HOLD = (
    "import sys, pathlib; from neuro.runs.lock import locked\n"
    "with locked(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
)


@contextmanager
def another_process(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a run until it is killed or its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    try:
        yield process
    finally:
        process.communicate()


def take(run: Path) -> None:
    """Lock a run and release it."""
    with lock.locked(run):
        pass


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    (path / "run_meta.json").write_text('{"status": "running"}')
    (path / "config.yaml").write_text("seed: 0")
    return path


def test_a_second_process_is_refused_until_the_first_ends(run):
    with another_process(run) as process:
        with pytest.raises(RunInUse, match=rf"run: process {process.pid} on .* is running it"):
            take(run)
        assert RunRecord(run).status == "running"
    assert not (run / lock.FILE).exists()
    take(run)


def test_a_killed_process_leaves_no_lock(run):
    with another_process(run) as process:
        os.kill(process.pid, signal.SIGKILL)
    assert (run / lock.FILE).exists()
    assert RunRecord(run).status == "killed"
    with lock.locked(run):
        assert RunRecord(run).status == "running"
    assert not (run / lock.FILE).exists()


def test_calls_within_a_process_share_the_lock(run):
    with lock.locked(run):
        take(run.parent / "run" / ".." / "run")
        found = lock.holder(run)
        assert found is not None and found.pid == os.getpid()
    assert lock.holder(run) is None


def test_without_locks_of_the_file_system_host_and_process_decide(run, monkeypatch):
    monkeypatch.setattr(lock, "_flock", lambda handle, exclusive: None)
    with another_process(run) as process, pytest.raises(RunInUse, match=f"process {process.pid}"):
        take(run)
    other = {"host": "elsewhere", "pid": 1, "started": 0.0}
    (run / lock.FILE).write_text(json.dumps(other))
    with pytest.raises(RunInUse, match=r"process 1 on elsewhere .* delete .*run\.lock"):
        take(run)
    (run / lock.FILE).write_text("damaged")
    take(run)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to .*file/run \(Not a directory\)"):
        take(tmp_path / "file" / "run")
