"""Launches in separate processes, forked from a server that has imported torch.

The imports of `python launch.py` take four seconds of processor time. Tests that stop, kill or
observe a process skip them by forking; tests of start-up, of several devices and of console output
start the interpreter (`helpers.start`).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from subprocess import TimeoutExpired
from unittest.mock import patch

_ROOT = Path(__file__).parents[2]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.e2e.preloaded"])


def _ensure_server() -> None:
    """Start the server unless it runs, with this repository first in its search path.

    Python 3.13 does not give the parent's `sys.path` to the server, and some packages install a
    `tests` of their own.
    """
    with patch.dict(os.environ, {"PYTHONPATH": str(_ROOT)}):
        forkserver.ensure_running()


class Launched:
    """A launch with the part of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]):
        number = len(list(cwd.glob(".stdout-*")))
        self._out, self._err = cwd / f".stdout-{number}", cwd / f".stderr-{number}"
        files = [str(self._out), str(self._err)]
        for path in files:
            Path(path).touch()
        _ensure_server()
        self._process = _context.Process(
            target=_launch, args=(arguments, str(cwd), os.environ | environment, *files)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal that ended the process, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code so far."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; returns the exit code. TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired("launch.py", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; returns what was printed to stdout and stderr."""
        self.wait(timeout)
        return self._out.read_text(), self._err.read_text()


def _launch(
    arguments: tuple[str, ...], cwd: str, environment: dict[str, str], out: str, err: str
) -> None:
    """The child process: `python launch.py <arguments>` without the start of the interpreter."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    import launch

    sys.argv = ["launch.py", *arguments]
    sys.exit(launch.command_line())
