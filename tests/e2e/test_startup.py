"""Start-up time: packages that each command imports, in a separate process.

`make bench` measures the times; these tests check the imports that dominate them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.helpers import ROOT, TINY, launch_here

#: modules that config errors and composition must not import; torch._dynamo alone takes two seconds
HEAVY = {
    "torch._dynamo", "lightning_fabric", "sympy", "numba", "matplotlib", "pandas", "scipy.stats",
    "sklearn", "optuna", "wandb",
}  # fmt: skip

#: modules not imported where no tensor is needed
ALL_OF_TORCH = HEAVY | {"torch", "h5py", "pydantic", "rich"}

#: run a module or script as `python` does, then print the imported modules
WATCHED = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, '')
try:
    if sys.argv[0] == '-m':
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
print('\\nLOADED', *sys.modules)
sys.exit(code)
"""


class Outcome(NamedTuple):
    """Exit code, output and imported modules of a command."""

    code: int
    out: str
    err: str
    modules: set[str]


def watched(*arguments: str, cwd: Path = ROOT) -> Outcome:
    """Run `python <arguments>` and list its modules."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    out, _, modules = done.stdout.rpartition("\nLOADED ")
    return Outcome(done.returncode, out, done.stderr, set(modules.split()))


def test_a_composition_needs_no_torch() -> None:
    done = watched("launch.py", "--cfg", "job")
    assert done.code == 0, done.err
    assert "tau_fast_ms" in done.out
    assert not done.modules & ALL_OF_TORCH


@pytest.mark.parametrize("override", ["seeed=1", "optimizer.lrr=1", "model=ltgat"])
def test_a_key_or_an_option_that_does_not_exist(override: str) -> None:
    done = watched("launch.py", override)
    assert done.code == 2
    assert done.err.startswith("\nError: ") and "Did you mean" in done.err
    assert not done.modules & ALL_OF_TORCH


def test_an_error_found_after_construction() -> None:
    arguments = (*TINY, "trainer.monitor=val/fast/nothing")
    assert launch_here(*arguments).code == 2  # generates the data, which needs sklearn
    done = watched(str(ROOT / "launch.py"), *arguments, cwd=Path.cwd())
    assert done.code == 2, done.err
    assert "trainer.monitor: this run produces no" in done.err
    assert not done.modules & HEAVY


@pytest.mark.parametrize(
    ("command", "shown", "unneeded"),
    [("runs", "0.5000", {"numpy"}), ("compare", "50.00 ± 0.00", set())],
)
def test_commands_that_read_runs(
    command: str, shown: str, unneeded: set[str], tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"name: tiny\nseed: {seed}\n")
        (run / "run_meta.json").write_text('{"status": "completed", "name": "tiny"}')
        (run / "report.json").write_text(
            '{"objective": 0.5, "objective_metric": "test/accuracy",'
            ' "metrics": {"test/accuracy": 0.5}}'
        )
    done = watched("-m", "neuro", command, "outputs", cwd=tmp_path)
    assert done.code == 0, done.err
    assert shown in done.out
    assert not done.modules & (HEAVY | unneeded | {"torch", "pydantic", "hydra", "omegaconf"})
