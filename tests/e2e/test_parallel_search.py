"""Searches with several workers and a database server: shared trials, lost workers, passwords."""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from neuro.search.storage import open_storage
from tests.e2e.helpers import SINGLE, launch_in_process, start

TINY = (*SINGLE, "trainer.validation.epochs=1", "hydra/sweeper=neuro")
RATE = "optimizer.lr=tag(log,interval(0.001,0.1))"
PRUNED = ("callbacks=[calibration,pruning]", "callbacks.pruning.startup_trials=1")
TWO = ("hydra.sweeper.n_jobs=2",)
PASSWORD = "s3cr3t-w0rd"
PATIENCE_S = 540  # several processes import torch, on a machine that may be busy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def command(directory: Path, *overrides: str) -> list[str]:
    given = {override.partition("=")[0] for override in overrides}
    base = [o for o in (*TINY, RATE) if o.partition("=")[0] not in given]
    return ["-m", *base, *overrides, f"hydra.sweep.dir={directory}"]


def trials(directory: Path) -> list[dict[str, str]]:
    with open(directory / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_workers_share_a_study(launcher: str, tmp_path: Path) -> None:
    """Reports of all workers are stored and used to prune later trials."""
    directory = tmp_path / "shared"
    done = launch_in_process(
        *command(
            directory, *TWO, *PRUNED, f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=4"
        ),
        cwd=tmp_path,
        patience_s=PATIENCE_S,
    )
    assert done.code == 0, done.err
    rows = trials(directory)
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert all(row["test/accuracy"] for row in rows)
    storage = open_storage(f"sqlite:///{directory / 'study.db'}")
    study = optuna.load_study(study_name="shared", storage=storage)
    assert all(trial.intermediate_values for trial in study.trials)
    assert not (directory / "4").exists()


@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_a_lost_worker_fails_its_batch(launcher: str, tmp_path: Path) -> None:
    if launcher == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'neuro[ray]'")
    directory = tmp_path / "lost"
    done = launch_in_process(
        *command(
            directory, *TWO, f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=4",
            "model._target_=tests.e2e.plugins.LostOnce",
        ),
        cwd=tmp_path, patience_s=PATIENCE_S, MARKER=str(tmp_path / "marker"),
        RAY_USAGE_STATS_ENABLED="0",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = trials(directory)
    failed = [row for row in rows if row["state"] == "fail"]
    assert len(rows) == 4
    assert 1 <= len(failed) <= 2
    assert {row["trial"] for row in failed} <= {"0", "1"}
    assert all(row["reason"].startswith("launcher: ") for row in failed)
    assert all(row["state"] == "complete" for row in rows if row not in failed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_search_writes_its_results(number: int, tmp_path: Path) -> None:
    directory = tmp_path / "stopped"
    process = start(
        *command(directory, "phase.task1.epochs=2000", "hydra.sweeper.n_trials=2"), cwd=tmp_path
    )
    deadline = time.time() + 240
    while not (directory / "0" / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "0 of 2 trials are stored. The same command completes it." in err
    first, again = trials(directory)
    assert (first["state"], first["reason"]) == ("fail", "interrupted")
    assert again["state"] == "waiting"


# -- PostgreSQL -----------------------------------------------------------------------------------


def _programs() -> Path | None:
    """The folder with PostgreSQL's programs."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which("initdb")
    folders += [] if found is None else [Path(found).resolve().parent]
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a temporary server; PostgreSQL refuses to run as root."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb found")
    pytest.importorskip("psycopg", reason="no driver: pip install 'neuro[postgresql]'")
    user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="neuro-pg-"))
    (folder / "password").write_text(PASSWORD)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, folder / "password"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        user = {"user": "nobody"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    controls = [programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
    make = [programs / "initdb", "-D", folder / "data", "-U", "me", "--auth=scram-sha-256",
            f"--pwfile={folder / 'password'}"]  # fmt: skip
    quiet: dict[str, Any] = {"cwd": "/", "check": True, "stdout": subprocess.DEVNULL, **user}
    try:
        subprocess.run(make, **quiet)
        subprocess.run([*controls, "-o", options, "start"], **quiet)
        yield f"127.0.0.1:{port}/postgres"
        subprocess.run([*controls, "-m", "fast", "stop"], **quiet)
    finally:
        shutil.rmtree(folder)


def test_a_study_on_a_server_leaves_no_password(server: str, tmp_path: Path) -> None:
    """On the command line and in a W&B run, with workers that report to it."""
    directory = tmp_path / "served"
    url = f"hydra.sweeper.storage=postgresql://me:{PASSWORD}@{server}"
    more = ("hydra/launcher=submitit_local", "tracking=wandb", *TWO, *PRUNED, url)
    done = launch_in_process(
        *command(directory, *more, "hydra.sweeper.n_trials=2"), cwd=tmp_path, patience_s=PATIENCE_S
    )
    assert done.code == 0, done.err
    done = launch_in_process(
        *command(directory, *PRUNED, f"hydra.sweeper.storage=postgresql://me@{server}",
                 "hydra.sweeper.n_trials=3"),
        cwd=tmp_path, patience_s=PATIENCE_S, PGPASSWORD=PASSWORD,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [row["trial"] for row in trials(directory)] == ["0", "1", "2"]
    assert not (directory / "study.db").exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 100  # the copied code and the files of three runs
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in done.out + done.err


@pytest.mark.parametrize(
    "address, reason",
    [("me:wr0ng-w0rd@{}", "password authentication failed"), ("me@10.255.255.1/db", "")],
)
def test_a_server_that_does_not_answer(
    address: str, reason: str, server: str, tmp_path: Path
) -> None:
    """The error comes within seconds, before any trial, without the password."""
    url = f"hydra.sweeper.storage=postgresql://{address.format(server)}"
    started = time.time()
    done = launch_in_process(*command(tmp_path / "none", url), cwd=tmp_path, patience_s=PATIENCE_S)
    assert done.code == 2
    assert "hydra.sweeper.storage: cannot open postgresql://me@" in done.err
    assert reason in done.err
    assert "wr0ng" not in done.out + done.err
    assert time.time() - started < 120  # libpq's default timeout is minutes
    assert not (tmp_path / "none" / "0").exists()
