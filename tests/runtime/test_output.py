"""Output that cannot be shown any more does not end a run, and is kept in run.log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from neuro.runtime.output import captured_errors
from neuro.runtime.signals import stop_signals

PRINTS = (
    "import sys, os; from neuro.runtime.output import make_output_robust as lasting; lasting()\n"
    "for _ in range(20000): print('± line')\n"
    "sys.stdout.flush(); os.write(1, b'raw'); os.system('echo child')\n"
    "print('survived', file=sys.stderr)\n"
)


def prints(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program above, run by a shell as `$PROGRAM`."""
    program = f"{sys.executable} -c '{PRINTS.replace(chr(39), chr(34))}'"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell.replace("PROGRAM", program)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("shell", ["PROGRAM | head -n 1", "PROGRAM >&-", "PROGRAM > /dev/full"])
def test_a_program_goes_on_without_a_reader(shell):
    done = prints(shell)
    assert (done.returncode, done.stderr) == (0, "survived\n")


def test_characters_that_a_terminal_lacks_are_replaced():
    done = prints("PROGRAM | head -n 1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "? line\n")


def test_a_closed_terminal_is_a_stop_signal_unless_it_is_ignored():
    assert signal.SIGHUP in stop_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_lines_of_native_code_are_collected(capfd: pytest.CaptureFixture[str]) -> None:
    with captured_errors() as lines:
        os.write(2, b"one line\n\n another\n")
    os.write(2, b"afterwards\n")
    assert lines == ["one line", "another"]
    assert capfd.readouterr().err == "afterwards\n"
    with pytest.raises(ValueError), captured_errors() as lines:
        os.write(2, b"before the error\n")
        raise ValueError
    assert lines == ["before the error"]
