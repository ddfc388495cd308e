"""Several processes from the command line: in a sweep, by torchrun, killed, interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from neuro.errors import ConfigError
from neuro.experiment.devices import make_fabric
from tests.e2e.helpers import (
    ROOT,
    SINGLE,
    SURROGATE,
    TINY,
    Outcome,
    assert_same_run,
    launch_here,
    launch_in_process,
    read,
    rows,
    same_weights,
    start,
    train_here,
    weights,
)
from tests.fakes import hardware

#: two processes wait for each other at every update: on a busy machine they take minutes
pytestmark = pytest.mark.timeout(900)

#: a last batch of 5, which does not divide evenly between two processes
UNEVEN = ("data.limit_train=21", "trainer.log.steps=1")
#: two processes on the CPU
TWO = ("hardware=ddp", "hardware.device=cpu")
#: long enough to be stopped, saved at every update
LONG = (
    *SINGLE, *UNEVEN, "phase.task1.epochs=30", "trainer.checkpoint.steps=1", "trainer.log.steps=4",
)  # fmt: skip


def assert_same_numbers(one: Path, other: Path) -> None:
    """Assert equal logs, up to rounding from another order of summation."""
    first, second = rows(one), rows(other)
    assert len(first) == len(second) > 4
    for row, twin in zip(first, second, strict=True):
        assert row == pytest.approx(twin, rel=2e-3, abs=1e-5)


def torchrun(*arguments: str, processes: int = 2) -> Outcome:
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc_per_node", str(processes), str(ROOT / "launch.py"), *arguments,
        ],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def workers(parent: int) -> list[psutil.Process]:
    """The spawned processes of a run, the main one first."""
    children = psutil.Process(parent).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


def wait_for_updates(run: Path, process: subprocess.Popen[str], updates: int) -> None:
    limit = time.monotonic() + 240
    while not (run / "metrics.jsonl").is_file() or rows(run)[-1:] == []:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.1)
    while rows(run)[-1]["step"] < updates:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)


def test_one_process_does_not_communicate(tmp_path: Path) -> None:
    plain = train_here(tmp_path / "plain", *SINGLE, "hardware=cpu")
    alone = train_here(tmp_path / "alone", *SINGLE, *TWO, "hardware.devices=1")
    assert same_weights(weights(alone), weights(plain))


# -- invalid combinations -------------------------------------------------------------------------


def test_fsdp_is_refused_with_what_to_use_instead() -> None:
    done = launch_here(*SINGLE, *TWO, "hardware.strategy=fsdp")
    assert done.code == 2
    assert "hardware.strategy: got 'fsdp'" in done.err
    assert "Use hardware.strategy=ddp; where a device's memory is short" in done.err
    assert not Path("outputs").exists()


def test_no_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    wanted = hardware(device="gpu", devices=8, strategy="ddp")
    with pytest.raises(ConfigError, match="hardware.devices: got 8, but this machine has 4 GPU"):
        make_fabric(wanted)


def test_a_strategy_is_one_of_fabrics() -> None:
    done = launch_here(*SINGLE, "hardware.strategy=dpp")
    assert done.code == 2
    assert "hardware.strategy" in done.err and "'dpp'" in done.err
    assert "should be 'auto' or 'ddp'. Did you mean 'ddp'?" in done.err


def test_a_batch_must_have_a_sample_for_every_process() -> None:
    done = launch_here(*SINGLE, *TWO, "data.batch_size=1")
    assert done.code == 2
    assert "data.batch_size: got 1 for 2 processes" in done.err


def test_torchrun_and_the_config_agree_on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID" if name == "RUN_ID" else name, value)
    done = launch_here(*SINGLE, "hardware=cpu")
    assert done.code == 2
    assert "hardware.devices: got 1, but torchrun started 2 processes" in done.err
    done = launch_here("mode=evaluate", "run=x", *SINGLE)
    assert done.code == 2


# -- the same numbers -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_gives_the_same_with_two_processes_per_run() -> None:
    """With local rules and with gradients, sequentially in one sweep."""
    done = launch_in_process(
        "-m", *TINY, *UNEVEN, *TWO, "experiment=ltgate,ltgate_surrogate", "hydra.sweep.dir=sweep",
        cwd=Path.cwd(),
    )  # fmt: skip
    assert done.code == 0, done.err
    for i, experiment in enumerate(("ltgate", "ltgate_surrogate")):
        alone = train_here(Path(experiment), *TINY, *UNEVEN, f"experiment={experiment}")
        assert_same_numbers(alone, Path("sweep", str(i)))
        assert read(Path("sweep", str(i)), "run_meta.json")["status"] == "completed"
        log = Path("sweep", str(i), "run.log").read_text()
        assert log.count("Calibrated thresholds") == 1  # only the main process logs


@pytest.mark.slow
def test_torchrun_gives_the_same_and_only_the_main_process_writes() -> None:
    done = torchrun(*TINY, *UNEVEN, *SURROGATE, *TWO)
    assert done.code == 0, done.err
    (run,) = Path("outputs").glob("*/*")
    assert done.out.count("the objective") == 1
    assert_same_numbers(train_here(Path("alone"), *TINY, *UNEVEN, *SURROGATE), run)
    (run / "report.json").unlink()
    again = torchrun(f"resume={run}", "init_from=null")
    assert again.code == 0 and "nothing left to do" in again.out


@pytest.mark.slow
def test_weights_of_another_run_reach_every_process(task1: Path) -> None:
    common = (*TINY, *UNEVEN, f"init_from={task1}")
    done = launch_in_process(*common, *TWO, "hydra.run.dir=two", cwd=Path.cwd())
    assert done.code == 0, done.err
    assert_same_numbers(train_here(Path("one"), *common), Path("two"))


# -- stopped in the middle ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted reference run."""
    folder = tmp_path_factory.mktemp("whole")
    done = launch_in_process(*LONG, *TWO, "hydra.run.dir=run", cwd=folder)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_and_it_resumes(rank: int, whole: Path) -> None:
    process = start(*LONG, *TWO, "hydra.run.dir=run", cwd=Path.cwd())
    wait_for_updates(Path("run"), process, 8)
    others = workers(process.pid)
    os.kill(others[rank].pid, signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 20
    assert process.returncode == 5, err
    assert f"Process {rank} was ended by SIGKILL; the others were stopped" in err
    assert "Continue with: python launch.py resume=" in err
    assert "Traceback" not in err
    assert not any(other.is_running() for other in others)
    assert read(Path("run"), "run_meta.json")["status"] == "failed"
    done = launch_in_process("resume=run", cwd=Path.cwd())
    assert done.code == 0, done.err
    assert_same_run(whole, Path("run"))


@pytest.mark.slow
def test_sigterm_reaches_all_processes_and_the_run_resumes(whole: Path) -> None:
    process = start(*LONG, *TWO, "hydra.run.dir=run", cwd=Path.cwd())
    wait_for_updates(Path("run"), process, 6)  # between two logs
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the run was saved. Continue with: python launch.py resume=" in err
    assert err.count("Stopping after this update") == 1 and "Traceback" not in err
    assert read(Path("run"), "run_meta.json")["status"] == "interrupted"
    done = launch_in_process("resume=run", cwd=Path.cwd())
    assert done.code == 0, done.err
    assert_same_run(whole, Path("run"))


@pytest.mark.slow
def test_an_error_of_all_processes_keeps_its_name() -> None:
    done = launch_in_process(
        *SINGLE, *SURROGATE, *TWO, "optimizer=sgd", "optimizer.lr=1e30",
        "trainer.max_skipped=1", "callbacks=[calibration]", "hydra.run.dir=run", cwd=Path.cwd(),
    )  # fmt: skip
    assert done.code == 3, done.err
    assert "Training diverged" in done.err and "Traceback" not in done.err
    assert read(Path("run"), "run_meta.json")["status"] == "failed"
