"""MLflow with the real package: a local store, a server, a resumed run."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from neuro.config.build import build_all, parse_all
from neuro.errors import BackendUnavailable, ConfigError
from neuro.tracking.base import RunInfo, Tracker
from neuro.tracking.jsonl import JsonlTracker
from neuro.tracking.mlflow import MlflowTracker

CONFIG = {"seed": 3, "optimizer": {"lr": 0.1}, "tags": ["a"], "text": "x" * 900}


def info(directory: Path, **changes: Any) -> RunInfo:
    return RunInfo(
        **{
            "directory": directory,
            "run_id": "r1",
            "name": "n",
            "project": "p",
            "group": "g",
            "tags": ("t1",),
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def located(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).resolve().as_uri())


def stored(uri: str = "mlruns", experiment: str = "p") -> list[Any]:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=located(uri))
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def history(run: Any, name: str, uri: str = "mlruns") -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=located(uri)).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in points]


def test_a_run_in_a_local_store(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    picture = tmp_path / "raster.png"
    picture.write_bytes(b"picture")
    tracker = MlflowTracker()
    tracker.start(info(tmp_path), CONFIG)
    assert not Path("mlruns").exists()  # opened at the first record
    tracker.log({"train/loss": 2.0}, 1)
    tracker.log({"train/loss": math.nan, "val/loss": 0.5}, 2)
    tracker.log_artifact(picture, "plots/raster", 3)
    tracker.add_config({"found_lr": {"task1": 0.003}})
    tracker.summary({"val/loss": 0.5, "test/accuracy": 0.75, "note": "text"})
    tracker.finish("completed")
    (run,) = stored()
    assert history(run, "train/loss")[0] == (1, 2.0) and len(history(run, "train/loss")) == 2
    assert math.isnan(history(run, "train/loss")[1][1])
    assert history(run, "val/loss") == [(2, 0.5)]  # not repeated by the summary
    assert history(run, "test/accuracy") == [(2, 0.75)]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "n")
    assert run.data.params["optimizer.lr"] == "0.1" and run.data.params["tags"] == "['a']"
    assert run.data.params["found_lr.task1"] == "0.003"
    assert run.data.tags["group"] == "g" and "t1" in run.data.tags
    kept = [path.name for path in Path("mlruns").glob("*/*/artifacts/**/*") if path.is_file()]
    assert sorted(kept) == ["config.yaml", "raster.png"]


@pytest.mark.parametrize(("status", "expected"), [("interrupted", "KILLED"), ("failed", "FAILED")])
def test_status_and_experiment(status: str, expected: str, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    tracker = MlflowTracker(experiment="other")
    tracker.start(info(tmp_path), {})
    tracker.log({"a": 1.0}, 1)
    tracker.finish(status)
    (run,) = stored(experiment="other")
    assert run.info.status == expected


def test_a_resumed_run_continues_its_mlflow_run_without_repeating_a_point(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    jsonl, tracker = JsonlTracker(), MlflowTracker()
    for each in (jsonl, tracker):
        each.start(info(tmp_path), CONFIG)
        each.log({"train/loss": 3.0}, 1)
        each.log({"train/loss": 2.0}, 2)
    length = jsonl.length()  # the checkpoint
    tracker.log({"train/loss": 1.0}, 3)
    tracker.finish("failed")
    jsonl.log({"val/loss": 9.0}, 2)  # logged before the checkpoint, but not sent to MLflow
    length = jsonl.length()
    jsonl.finish("failed")
    resumed = MlflowTracker()
    resumed.start(info(tmp_path, resumed=True, kept_bytes=length), CONFIG)
    resumed.log({"train/loss": 1.0}, 3)
    resumed.log({"train/loss": 0.5}, 4)
    resumed.finish("completed")
    (run,) = stored()
    assert run.info.status == "FINISHED"
    assert history(run, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert history(run, "val/loss") == [(2, 9.0)]


def test_the_error_for_a_missing_package_has_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="pip install mlflow"):
        MlflowTracker().start(info(tmp_path), {})


def test_a_uri_of_no_known_kind_is_a_config_error() -> None:
    node = {"mlflow": {"_target_": "neuro.tracking.mlflow.MlflowTracker", "uri": "htps://x:5000"}}
    with pytest.raises(ConfigError, match=r"tracking.mlflow.*Did you mean 'https'"):
        build_all(parse_all(node, Tracker, "tracking"))


def test_an_unavailable_server_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MlflowTracker(uri="http://127.0.0.1:9", finish_timeout_s=20.0)
    with caplog.at_level(logging.ERROR):
        tracker.start(info(tmp_path), {})
        tracker.log({"a": 1.0}, 1)
        tracker.finish("completed")
    assert "MLflow could not start and records nothing of this run" in caplog.text


def test_the_end_waits_no_longer_than_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    monkeypatch.setattr("neuro.tracking.mlflow._Session", lambda *_: waiting.wait(20))
    tracker = MlflowTracker(finish_timeout_s=0.1)
    tracker.start(info(tmp_path), {})
    tracker.log({"a": 1.0}, 1)
    started = time.monotonic()
    with caplog.at_level(logging.ERROR):
        tracker.finish("completed")
    assert time.monotonic() - started < 5
    assert "did not take everything within 0.1 s" in caplog.text
    waiting.set()


#: a run as a server describes it
RUN = {
    "info": {
        "run_id": "r",
        "artifact_uri": "mlflow-artifacts:/1/r",
        "lifecycle_stage": "active",
        "status": "RUNNING",
        "experiment_id": "1",
    },
    "data": {},
}


class _Recorder(BaseHTTPRequestHandler):
    """The part of MLflow's REST interface that a run uses; records the requests."""

    def do_GET(self) -> None:
        if "get-by-name" in self.path:
            self._answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": ""}, 404)
        else:
            self._answer({"run": RUN})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.rpartition("/mlflow/")[2]
        self.server.received.append((name, body))  # type: ignore[attr-defined]
        answers = {"experiments/create": {"experiment_id": "1"}, "runs/create": {"run": RUN}}
        self._answer(answers.get(name, {}))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _answer(self, content: Any, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
    server.received = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_everything_is_sent_to_a_remote_uri(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MlflowTracker(uri=f"http://127.0.0.1:{server.server_port}")
    tracker.start(info(tmp_path), {"seed": 1})
    tracker.log({"train/loss": 2.0}, 7)
    tracker.finish("completed")
    received = server.received  # type: ignore[attr-defined]
    calls = [name for name, _ in received]
    assert calls[:2] == ["experiments/create", "runs/create"] and calls[-1] == "runs/update"
    batches = [body for name, body in received if name == "runs/log-batch"]
    assert [m["step"] for body in batches for m in body.get("metrics", [])] == [7]
    assert {p["key"] for body in batches for p in body.get("params", [])} == {"seed"}
    assert not Path("mlruns").exists()


@pytest.mark.slow
def test_a_real_server(tmp_path: Path) -> None:
    """Needs the full package with MLflow's server; mlflow-skinny is enough for the other tests."""
    pytest.importorskip("flask")
    port = 5077
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--port",
            str(port),
            "--backend-store-uri",
            "sqlite:///server.db",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None
        tracker = MlflowTracker(uri=uri)
        tracker.start(info(tmp_path), CONFIG)
        tracker.log({"train/loss": 2.0}, 1)
        tracker.finish("completed")
        (run,) = stored(uri)
        assert history(run, "train/loss", uri) == [(1, 2.0)]
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # MLflow starts further processes
        server.wait(30)
