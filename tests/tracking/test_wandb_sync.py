"""The real `wandb sync` against a simulated server in this process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from neuro.__main__ import main
from neuro.tracking.base import Trackers
from neuro.tracking.jsonl import JsonlTracker
from neuro.tracking.wandb import WandbTracker
from tests.tracking.test_wandb import info, service, settled


class Server(ThreadingHTTPServer):
    """The part of W&B's service that an upload uses; `history` holds rows by their offset."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.history: dict[int, dict[str, Any]] = {}
        self.uploads: list[tuple[str, int, int]] = []  # run, offset and number of rows
        self.known = False

    def graphql(self, query: str) -> dict[str, Any]:
        """The response to a query; empty for queries whose response does not matter."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        project = {"id": "cA==", "name": "neuro", "entity": {"id": "ZQ==", "name": "lab"}}
        bucket = {
            "id": "Yg==",
            "name": "r1",
            "displayName": "r1",
            "config": "{}",
            "project": project,
            "historyLineCount": len(self.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "summaryMetrics": "{}",
            "eventsTail": "[]",
            "wandbConfig": "{}",
            "tags": [],
            "historyTail": json.dumps([json.dumps(row) for row in self.history.values()][-1:]),
        }
        match found and found[1]:
            case "UpsertBucket":
                new, self.known = not self.known, True
                return {"upsertBucket": {"bucket": bucket, "inserted": new}}
            case "RunResumeStatus":
                return {"model": {"bucket": bucket if self.known else None}}
            case "Viewer":
                viewer = {"id": "dg==", "entity": "lab", "username": "me", "flags": "{}"}
                return {"viewer": viewer | {"teams": {"edges": []}}}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "Yg==", "uploadHeaders": [], "files": []}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
        return {}

    def stream(self, path: str, files: dict[str, Any]) -> None:
        """Store rows of the history at their offsets."""
        sent = files.get("wandb-history.jsonl")
        if sent is not None:
            self.uploads.append((path.split("/")[-2], sent["offset"], len(sent["content"])))
            for i, row in enumerate(sent["content"]):
                self.history[sent["offset"] + i] = json.loads(row)


class Request(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            answer = {"data": self.server.graphql(json.loads(content)["query"])}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path, json.loads(content).get("files") or {})
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def sync(server: Server, folder: str) -> str:
    """Run `wandb sync` in a process with its own service."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    own |= {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "k" * 40}
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", folder],
        env=own,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@service
@pytest.mark.slow  # W&B starts four times
def test_the_folders_of_a_resumed_run_become_one_history(tmp_path, server, capsys):
    length = 0
    for steps, resumed in ((range(1, 41), False), (range(31, 51), True)):
        trackers = Trackers((JsonlTracker(), WandbTracker()))
        trackers.start(info(tmp_path, resumed=resumed, kept_bytes=length), {"a": 1})
        for step in steps:
            trackers.log({"loss": 1 / step}, step)
            if step == 30:
                length = trackers.trackers[0].length()  # of the checkpoint to resume from
        trackers.finish("completed" if resumed else "interrupted")
        settled(tmp_path)
        time.sleep(max(0.0, 1.01 - time.time() % 1))  # W&B names folders by the second
    (tmp_path / "run_meta.json").write_text('{"name": "lif", "status": "completed"}')
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert main(["wandb", str(tmp_path)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("upload: ").split()
    assert command == ["wandb", "sync", str(tmp_path / "wandb")]
    sync(server, command[2])
    names, offsets, counts = zip(*server.uploads, strict=True)  # a slow upload comes in parts
    assert set(names) == {"r1"} and 30 in offsets  # where the second folder begins
    assert [start + n for start, n in zip(offsets, counts, strict=True)] == [*offsets[1:], 50]
    assert [row["_step"] for _, row in sorted(server.history.items())] == list(range(1, 51))
    assert [row["loss"] for _, row in sorted(server.history.items())] == [
        pytest.approx(1 / step) for step in range(1, 51)
    ]
    assert main(["wandb", str(tmp_path)]) == 0
    assert "nothing waits for upload" in capsys.readouterr().out
    assert "No runs to sync" in sync(server, command[2])
