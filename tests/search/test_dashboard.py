"""`python -m neuro dashboard`: the study of a search in a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from neuro.__main__ import main
from neuro.search.storage import open_storage, storage_url
from tests.browser import dom_of


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until a server accepts connections."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("localhost", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("storage", [None, "journal"])
def test_the_page_shows_the_study(storage: str | None, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="pip install 'neuro[dashboard]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = open_storage(storage_url(storage, tmp_path))
    optuna.create_study(study_name="rates-of-ltgate", storage=opened)
    port = free_port()
    command = (sys.executable, "-m", "neuro", "dashboard", str(tmp_path), "--port", str(port))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            assert server.stdout is not None
            assert f"http://localhost:{port}/dashboard" in server.stdout.readline()
            wait_for(port)
            page = dom_of(
                f"http://localhost:{port}/dashboard", tmp_path, "--virtual-time-budget=10000"
            )
        finally:
            server.terminate()
    assert "rates-of-ltgate" in page


def test_a_directory_without_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path)]) == 2
    assert "holds no study (study.db or study.log)" in capsys.readouterr().err
