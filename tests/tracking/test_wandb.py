"""W&B with the real package, offline; files are read back with W&B's own reader."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuro.errors import BackendUnavailable
from neuro.tracking import wandb_log
from neuro.tracking.base import RunInfo, Trackers
from neuro.tracking.jsonl import JsonlTracker
from neuro.tracking.wandb import WandbTracker, _history_step

service = pytest.mark.filterwarnings("default")  # W&B's own deprecations are not ours


def info(directory: Path, **changes) -> RunInfo:
    values = {
        "directory": directory,
        "run_id": "r1",
        "name": "my run",
        "project": "neuro",
        "group": "sweep-7",
        "tags": ("ltgate", "fast"),
        "job_type": "train",
    }
    return RunInfo(**values | changes)


def read(directory: Path) -> list[list[dict]]:
    """The records of each of a run's offline files, oldest first, by `wandb leet inspect`."""
    import wandb

    core = Path(wandb.__file__).parent / "bin" / "wandb-core"
    files = sorted((directory / "wandb").glob("offline-run-*/run-*.wandb"))
    return [
        [
            json.loads(line)
            for line in subprocess.run(
                [core, "leet", "inspect", "--json", "--run-file", file, file.parent.parent],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            ).stdout.splitlines()
        ]
        for file in files
    ]


def settled(directory: Path) -> list[list[dict]]:
    """The same, after W&B's service process has completed the newest file."""
    deadline = time.monotonic() + 5
    while not of_type((segments := read(directory))[-1], "exit") and time.monotonic() < deadline:
        time.sleep(0.05)
    return segments


def exit_code(records: list[dict]) -> int:
    return of_type(records, "exit")[-1].get("exit_code", 0)


def of_type(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def history(records: list[dict], metric: str) -> list[tuple[int, float]]:
    items = [record["item"] for record in of_type(records, "history")]
    return [(item["_step"], item[metric]) for item in items if metric in item]


def flat(records: list[dict]) -> str:
    return json.dumps(records)


@service
def test_an_offline_run_has_all_records_and_no_output(tmp_path, capfd, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    Image.new("RGB", (8, 4), "red").save(tmp_path / "curve.png")
    (tmp_path / "report.json").write_text("{}")
    tracker = WandbTracker(entity="lab")
    tracker.start(info(tmp_path), {"model": {"width": 32}, "seed": 0})
    assert not (tmp_path / "wandb").exists()  # starts with the first row
    began = time.perf_counter()
    tracker.log({"train/loss": 0.5}, 10)
    assert time.perf_counter() - began < 0.2  # and then in the background
    tracker.log({"train/loss": float("nan"), "val/accuracy": 0.9}, 20)
    tracker.log_artifact(tmp_path / "curve.png", "plots/curve", 20)
    tracker.log_artifact(tmp_path / "report.json", "report", 20)
    tracker.add_config({"found_lr": {"task1": 0.003}})
    tracker.summary({"test/accuracy": 0.97, "continual": {"bwt": -0.01}})
    tracker.finish("completed")
    (records,) = settled(tmp_path)
    (run,) = of_type(records, "run")
    assert (run["project"], run["run_group"], run["run_id"]) == ("neuro", "sweep-7", "r1")
    assert (run["display_name"], run["job_type"], run["entity"]) == ("my run", "train", "lab")
    assert run["tags"] == ["ltgate", "fast"]
    config = run["config"]["update"]
    (found,) = [
        c["update"] for c in of_type(records, "config") if "found_lr" in c.get("update", {})
    ]
    assert found["found_lr"] == {"task1": 0.003}
    assert config["model"] == {"width": 32} and config["seed"] == 0
    assert not run.get("resume")
    assert history(records, "train/loss") == [(10, 0.5), (20, "NaN")]
    assert history(records, "val/accuracy") == [(20, 0.9)]
    summary: dict = {}
    for record in of_type(records, "summary"):
        summary |= record.get("update", {})
    assert summary["test/accuracy"] == 0.97 and summary["status"] == "completed"
    assert "bwt" in flat(of_type(records, "summary"))
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/plots/curve*.png"))
    assert "r1-results" in flat(records) and "report.json" in flat(records)
    assert exit_code(records) == 0
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


KILLED = """
import os, signal, sys, time
from pathlib import Path
from neuro.tracking.base import RunInfo, Trackers
from neuro.tracking.jsonl import JsonlTracker
from neuro.tracking.wandb import WandbTracker
directory = Path(sys.argv[1])
trackers = Trackers((JsonlTracker(), WandbTracker()))
trackers.start(RunInfo(directory, "r1", "n", "p"), {"a": 1})
for step in range(1, 200):
    trackers.log({"loss": 1 / step}, step)
    if step == 120:
        trackers.flush()
        (directory / "length").write_text(str(trackers.trackers[0].length()))
if sys.argv[2] == "later":
    while not list(directory.glob("wandb/*/run-r1.wandb")):
        time.sleep(0.02)
    time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@service
@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_killed_and_resumed_run_has_each_step_once(tmp_path, when):
    # not this process's service, which would survive the kill
    own_service = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    command = [sys.executable, "-c", KILLED, str(tmp_path), when]
    killed = subprocess.run(command, env=own_service, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    resumed = Trackers((JsonlTracker(), WandbTracker()))
    history_bytes = int((tmp_path / "length").read_text())
    resumed.start(info(tmp_path, resumed=True, kept_bytes=history_bytes), {"a": 1})
    for step in range(121, 131):
        resumed.log({"loss": 1 / step}, step)
    resumed.finish("completed")
    segments = settled(tmp_path)
    assert of_type(segments[-1], "run")[0]["resume"] is True
    assert {run["run_id"] for s in segments for run in of_type(s, "run")} == {"r1"}
    rows = [row for segment in segments for row in history(segment, "loss")]
    assert rows == [(step, pytest.approx(1 / step)) for step in range(1, 131)]


@service
def test_resume_cuts_what_the_interrupted_run_logged_after_its_checkpoint(tmp_path):
    trackers = Trackers((JsonlTracker(), WandbTracker()))
    trackers.start(info(tmp_path), {})
    for step in range(1, 3001):  # several blocks of W&B's file
        trackers.log({"loss": float(step)}, step)
        if step == 2000:
            length = trackers.trackers[0].length()
    trackers.finish("interrupted")
    (records,) = settled(tmp_path)
    assert history(records, "loss")[-1] == (3000, 3000)
    assert exit_code(records) == 1
    time.sleep(max(0.0, 1.01 - time.time() % 1))  # W&B names folders by the second
    resumed = Trackers((JsonlTracker(), WandbTracker()))
    resumed.start(info(tmp_path, resumed=True, kept_bytes=length), {})
    resumed.log({"loss": -1.0}, 2001)
    resumed.finish("completed")
    first, second = settled(tmp_path)
    assert history(first, "loss") == [(step, step) for step in range(1, 2001)]
    assert history(second, "loss") == [(2001, -1)]


@service
def test_an_uploaded_file_is_not_changed(tmp_path):
    tracker = WandbTracker()
    tracker.start(info(tmp_path), {})
    for step in (1, 2, 3):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("completed")
    settled(tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-r1.wandb")
    assert wandb_log.last_step(file, _history_step) == 3
    from neuro.tracking.wandb import _truncate

    file.with_name(file.name + ".synced").touch()
    assert _truncate([file], 1) == 3
    file.with_name(file.name + ".synced").unlink()
    assert _truncate([file], 1) == 1
    assert wandb_log.last_step(file, _history_step) == 1


@service
def test_uploaded_rows_are_not_logged_again(tmp_path):
    """A file was uploaded beyond the checkpoint: the resumed run logs only later steps."""
    trackers = Trackers((JsonlTracker(), WandbTracker()))
    trackers.start(info(tmp_path), {})
    for step in (1, 2, 3, 4):
        trackers.log({"loss": float(step)}, step)
        if step == 2:
            length = trackers.trackers[0].length()
    trackers.finish("interrupted")
    settled(tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-r1.wandb")
    file.with_name(file.name + ".synced").touch()
    time.sleep(max(0.0, 1.01 - time.time() % 1))
    resumed = Trackers((JsonlTracker(), WandbTracker()))
    resumed.start(info(tmp_path, resumed=True, kept_bytes=length), {})
    for step in (2, 3, 4, 5):  # rows of update 2 may be logged after its checkpoint
        resumed.log({"loss": float(step)}, step)
    resumed.finish("completed")
    first, second = settled(tmp_path)
    assert history(first, "loss") == [(step, step) for step in (1, 2, 3, 4)]
    assert history(second, "loss") == [(5, 5)]


def test_a_foreign_file_is_reported_and_its_rows_are_logged_again(tmp_path, caplog):
    from neuro.tracking.wandb import _truncate

    folder = tmp_path / "offline-run-1-r1"
    folder.mkdir()
    (folder / "run-r1.wandb").write_bytes(b"something else")
    assert _truncate([folder / "run-r1.wandb"], 5) == -1
    assert "not a W&B log" in caplog.text


def test_disabled_and_unused_trackers_start_nothing(tmp_path):
    for tracker in (WandbTracker(mode="disabled"), WandbTracker()):
        tracker.start(info(tmp_path), {})
        if tracker.mode == "disabled":
            tracker.log({"a": 1.0}, 1)
            tracker.summary({"a": 1.0})
            tracker.log_artifact(tmp_path / "x.png", "x", 3)
        tracker.flush()
        tracker.finish("completed")
    assert not list(tmp_path.iterdir())


def test_online_without_a_login_is_refused_before_training(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = WandbTracker(mode="online")
    with pytest.raises(BackendUnavailable, match="wandb login"):
        tracker.start(info(tmp_path), {})
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    tracker.start(info(tmp_path), {})
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(BackendUnavailable):
        tracker.start(info(tmp_path), {})
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    tracker.start(info(tmp_path), {})


class FakeRun:
    starting_step = 2
    id = "r1"

    def __init__(self):
        self.rows, self.summary = [], {}

    def log(self, row, step=None):
        self.rows.append((step, row))

    def finish(self, exit_code=0):
        time.sleep(self.finish_takes)

    finish_takes = 0.0


@pytest.fixture
def fake(monkeypatch):
    import wandb

    run = FakeRun()
    run.settings = {}

    def init(**settings):
        run.settings.update(settings)
        return run

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    return run


def test_a_resumed_online_run_logs_rows_missing_on_the_server(tmp_path, fake):
    rows = [{"step": s, "time": 5.0, "a": None if s == 3 else 1.0} for s in (1, 2, 3)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(content)
    tracker = WandbTracker(mode="online", entity="lab")
    tracker.start(info(tmp_path, run_id="a/b:1", resumed=True, kept_bytes=len(content)), {})
    tracker.log({"a": 4.0}, 4)
    tracker.finish("completed")
    assert [step for step, _ in fake.rows] == [2, 3, 4]
    assert fake.rows[0][1] == {"_timestamp": 5.0, "a": 1.0}
    assert math.isnan(fake.rows[1][1]["a"])
    assert (fake.settings["id"], fake.settings["resume"]) == ("a-b-1", "allow")
    assert (fake.settings["mode"], fake.settings["entity"]) == ("online", "lab")


def test_the_end_of_a_run_waits_for_the_timeout_only(tmp_path, fake, monkeypatch, caplog):
    monkeypatch.setattr("neuro.tracking.wandb._GRACE_S", 0.0)
    fake.finish_takes = 3.0
    tracker = WandbTracker(finish_timeout_s=0.2)
    tracker.start(info(tmp_path), {})
    tracker.log({"a": 1.0}, 1)
    began = time.perf_counter()
    tracker.finish("completed")
    assert time.perf_counter() - began < 1.5
    assert fake.settings["settings"].finish_timeout == 0.2
    assert "wandb sync" in caplog.text


def test_a_failing_service_is_reported_without_other_effects(tmp_path, monkeypatch, caplog):
    import wandb

    def broken(**settings):
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", broken)
    tracker = WandbTracker()
    tracker.start(info(tmp_path), {})
    with caplog.at_level(logging.ERROR):
        for step in range(3):
            tracker.log({"a": 1.0}, step)
        tracker.finish("failed")
    assert "records nothing of this run: no space left" in caplog.text


def test_records_end_at_an_incomplete_one_and_span_blocks(tmp_path):
    def chunk(kind: int, payload: bytes) -> bytes:
        return b"\0\0\0\0" + len(payload).to_bytes(2, "little") + bytes([kind]) + payload

    header = b":W&B\xe1\xbe\x00"
    body = chunk(1, b"one")
    room = 32768 - len(header + body)
    body += chunk(2, b"x" * (room - 7)) + chunk(4, b"end")
    content = header + body
    found = list(wandb_log.records(content + chunk(1, b"torn")[:-2]))
    assert [begin for begin, _ in found] == [7, 17]
    assert found[0][1] == b"one" and found[1][1] == b"x" * (room - 7) + b"end"
    with pytest.raises(ValueError, match="not a W&B log"):
        list(wandb_log.records(b"foreign"))
