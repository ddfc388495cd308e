"""Run launch.py as a user does: in a separate process, or in this one where that suffices."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

import launch
from neuro.io import checkpoint
from neuro.runs import naming
from tests.e2e.forked import Launched

ROOT = Path(launch.__file__).parent

#: an experiment that takes milliseconds
TINY = (
    "data.limit_train=20",
    "data.limit_val=10",
    "data.limit_test=10",
    "data.batch_size=8",
    "data.timings.fast.duration_ms=8",
    "data.timings.slow.duration_ms=160",
    "model.channels=[4,4,8]",
    "model.dense_units=16",
    "tracking=none",
    "callbacks=[calibration,weight_bounds]",
    "phase.task1.epochs=2",
    "phase.task2.epochs=2",
)
#: the same with one phase
SINGLE = (*TINY[:-2], "phase=task1", "phase.task1.epochs=2")

SURROGATE = ("experiment=ltgate_surrogate",)


class Outcome(NamedTuple):
    """How a launch ended, and what it printed."""

    code: int
    out: str
    err: str


def launch_here(*arguments: str) -> Outcome:
    """`python launch.py <arguments>` within this process: the same code path, without start-up."""
    out, err = io.StringIO(), io.StringIO()
    naming.process_id.cache_clear()
    with (
        mock.patch.object(sys, "argv", ["launch.py", *arguments]),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _own_logging(),
    ):
        try:
            code = launch.command_line()
        except SystemExit as error:
            code = int(error.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Restore the root logger, which Hydra configures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:], root.level = handlers, level


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a separate process that runs launch.py."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=cwd,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fork(*arguments: str, cwd: Path, **environment: str) -> Launched:
    """Run launch.py in a process forked after its imports, which saves their seconds."""
    return Launched(arguments, cwd, {"OMP_NUM_THREADS": "1", **environment})


def launch_in_process(
    *arguments: str, cwd: Path, patience_s: float = 240, **environment: str
) -> Outcome:
    """`python launch.py <arguments>` in a separate process."""
    process = start(*arguments, cwd=cwd, **environment)
    out, err = process.communicate(timeout=patience_s)
    return Outcome(process.returncode, out, err)


def train_here(directory: Path, *arguments: str) -> Path:
    """A training run in `directory` that must succeed."""
    done = launch_here(*arguments, f"hydra.run.dir={directory}")
    assert done.code == 0, done.err
    return directory


def read(run: Path, name: str = "report.json") -> dict[str, Any]:
    """One of a run's JSON files, which must be strict JSON."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{name} holds {constant}")

    content: dict[str, Any] = json.loads((run / name).read_text(), parse_constant=refuse)
    return content


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows that a run logged, without times and speeds."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    ignored = ("time", "train/samples_per_s", "train/tokens_per_s")
    return [{k: v for k, v in json.loads(line).items() if k not in ignored} for line in lines]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """The model in one of a run's checkpoints."""
    state: dict[str, torch.Tensor] = load(run, name)["model"]
    return state


def load(run: Path, name: str = "last") -> dict[str, Any]:
    """One of a run's checkpoints."""
    content: dict[str, Any] = checkpoint.load(run / "checkpoints" / f"{name}.safetensors")
    return content


def same_weights(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs have equal logs, weights and reports."""
    assert rows(one) == rows(other)
    first, second = read(one), read(other)
    for key in ("objective", "metrics", "continual", "phases"):
        assert first.get(key) == second.get(key)
    assert same_weights(weights(one), weights(other))
    assert same_weights(weights(one, "best"), weights(other, "best"))
