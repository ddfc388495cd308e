"""A stopped or killed run resumes with the numbers of an uninterrupted one."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from neuro.errors import CheckpointError
from neuro.runs.record import latest_run
from tests.e2e.forked import Launched
from tests.e2e.helpers import (
    SINGLE,
    SURROGATE,
    TINY,
    Outcome,
    assert_same_run,
    fork,
    launch_here,
    load,
    read,
    rows,
    same_weights,
    train_here,
    weights,
)

DENSE = ("trainer.log.steps=1", "trainer.validation.steps=2", "trainer.checkpoint.steps=1")


@contextlib.contextmanager
def interrupted_at(update: int) -> Iterator[None]:
    """Simulate a signal during the given update of the next launch in this process."""
    polls = iter(range(1, 10_000))

    @contextlib.contextmanager
    def signals(quiet: bool) -> Iterator[Callable[[], bool]]:
        yield lambda: next(polls) >= update

    with mock.patch("neuro.experiment.fit.noting_signals", signals):
        yield


def interrupt(directory: Path, update: int, *arguments: str) -> Outcome:
    """A run in `directory` that is interrupted."""
    with interrupted_at(update):
        done = launch_here(*arguments, f"hydra.run.dir={directory}")
    assert done.code == 130, done.out + done.err
    return done


@pytest.fixture(scope="module", params=["local", "surrogate"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], Path]:
    """Arguments of a run, and the uninterrupted run."""
    arguments = (*TINY, *DENSE, *(SURROGATE if request.param == "surrogate" else ()))
    return arguments, train_here(tmp_path_factory.mktemp("reference") / "run", *arguments)


@pytest.mark.parametrize(
    "update",  # first, end of an epoch, second phase, last one
    [pytest.param(1, marks=pytest.mark.slow), 3, 6, pytest.param(8, marks=pytest.mark.slow)],
)
def test_same_numbers(reference: tuple[tuple[str, ...], Path], update: int) -> None:
    arguments, whole = reference
    run = Path("run")
    done = interrupt(run, update, *arguments)
    assert f"Continue with: python launch.py resume={run.resolve()}" in done.err
    meta = read(run, "run_meta.json")
    assert meta["status"] == "interrupted"
    assert meta["finished"]
    with pytest.raises(CheckpointError, match="1 interrupted"):
        latest_run(Path())
    done = launch_here(f"resume={run}")
    assert done.code == 0, done.err
    assert_same_run(run, whole)
    after = read(run, "run_meta.json")
    assert after["status"] == "completed"
    assert after["run_id"] == meta["run_id"]
    assert after["started"] == meta["started"]
    assert [session["changes"] for session in after["resumed"]] == [{}]


@pytest.mark.slow
def test_from_a_chosen_checkpoint() -> None:
    arguments = (*SINGLE, "trainer.checkpoint.steps=1", "trainer.keep=9")
    whole = train_here(Path("whole"), *arguments)
    interrupt(Path("run"), 5, *arguments)
    done = launch_here("resume=run/checkpoints/step-00000002.safetensors")
    assert done.code == 0, done.err
    assert_same_run(Path("run"), whole)


def test_damaged_last_checkpoint() -> None:
    arguments = (*SINGLE, *DENSE)
    whole = train_here(Path("whole"), *arguments)
    interrupt(Path("run"), 4, *arguments)
    last = Path("run/checkpoints/last.safetensors")
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[:-9])
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    assert "Using previous-last.safetensors instead" in done.out
    assert_same_run(Path("run"), whole)


def test_killed_before_the_first_checkpoint() -> None:
    whole = train_here(Path("whole"), *SINGLE)
    interrupt(Path("run"), 2, *SINGLE)
    shutil.rmtree("run/checkpoints")
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    assert "no checkpoint yet; it starts from the beginning" in done.out
    assert_same_run(Path("run"), whole)


def test_a_run_from_other_weights(task1: Path) -> None:
    arguments = (*TINY, "phase=task2", f"init_from={task1}", *DENSE)
    arguments = tuple(a for a in arguments if not a.startswith("phase.task1"))
    whole = train_here(Path("whole"), *arguments)
    interrupt(Path("run"), 2, *arguments)
    assert launch_here("resume=run").code == 0
    assert_same_run(Path("run"), whole)


def test_killed_before_the_report() -> None:
    """Killed between the last checkpoint and the report."""
    whole = train_here(Path("whole"), *TINY)
    run = Path(shutil.copytree(whole, "run"))
    (run / "report.json").unlink()
    meta = run / "run_meta.json"
    meta.write_text(meta.read_text().replace('"completed"', '"running"'))
    done = launch_here("resume=run")
    assert done.code == 0, done.err
    assert_same_run(run, whole)


# -- changes that a resume accepts ----------------------------------------------------------------


def test_allowed_changes_are_recorded() -> None:
    interrupt(Path("run"), 4, *TINY, "trainer.checkpoint.steps=1")
    changes = {
        "phase.task2.epochs": 3,
        "trainer.log.steps": 2,
        "trainer.keep": 2,
        "hardware.device": "cpu",
        "tags": ["again"],
    }
    overrides = [f"{k}={str(v).replace(chr(39), '')}" for k, v in changes.items()]
    done = launch_here("resume=run", *overrides, "tracking=[csv]")
    assert done.code == 0, done.err
    meta = read(Path("run"), "run_meta.json")
    recorded = meta["resumed"][0]["changes"]
    assert changes.items() <= recorded.items()
    assert "tracking.csv" in recorded
    assert meta["tags"] == ["again"]
    assert load(Path("run"))["progress"]["step"] == 2 * 3 + 3 * 3
    assert Path("run/metrics.csv").is_file()
    assert len(list(Path("run/checkpoints").glob("step-*"))) == 2


@pytest.mark.parametrize(("size", "accumulate"), [(4, 1), (4, 2), (16, 1)])
def test_another_batch_size(size: int, accumulate: int) -> None:
    """Each sample of the epoch is used once, except those of a batch that is cut."""
    interrupt(Path("run"), 5, *SINGLE[:-1], "phase.task1.epochs=4", "scheduler=cosine")
    done = launch_here("resume=run", f"data.batch_size={size}", f"trainer.accumulate={accumulate}")
    assert done.code == 0, done.err
    per_epoch = -(-20 // (size * accumulate))
    rest = per_epoch - 16 // (size * accumulate)  # of the second epoch
    assert load(Path("run"))["progress"]["step"] == 5 + rest + 2 * per_epoch


def test_refused_changes_are_named() -> None:
    interrupt(Path("run"), 2, *TINY)
    before = read(Path("run"), "run_meta.json")
    done = launch_here(
        "resume=run", "seed=3", "optimizer.lr=1", "model.neuron.gate.gamma=0.2", "tags=[a]"
    )
    assert done.code == 2
    assert "3 problems" in done.err
    for key in ("seed", "optimizer.lr", "model.neuron.gate.gamma"):
        assert f"{key}: cannot change when a run is resumed" in done.err
    assert "init_from" in done.err
    assert read(Path("run"), "run_meta.json") == before
    done = launch_here("resume=run", "init_from=elsewhere")
    assert "init_from: cannot change" in done.err
    done = launch_here("resume=run", "rule=surrogate")
    assert "rule=surrogate: sets several keys at once" in done.err
    done = launch_here("resume=run", "hydra.run.dir=elsewhere")
    assert "a run is resumed in its own directory" in done.err
    assert not Path("elsewhere").exists()


def test_an_edited_config_is_refused_like_an_override() -> None:
    interrupt(Path("run"), 2, *TINY)
    config = Path("run/config.yaml")
    written = config.read_text()
    config.write_text(written.replace("seed: 0", "seed: 1"))
    done = launch_here("resume=run")
    assert done.code == 2
    assert "run/config.yaml was edited after the run had written it" in done.err
    config.write_text(written)
    assert launch_here("resume=run", "trainer.log.steps=1").code == 0


def test_a_finished_phase_keeps_its_length() -> None:
    interrupt(Path("run"), 7, *TINY)
    done = launch_here("resume=run", "phase.task1.epochs=5")
    assert done.code == 2
    assert "phase.task1.epochs: phase task1 is finished" in done.err


def test_a_changed_value_can_be_restored() -> None:
    interrupt(Path("run"), 2, *TINY, "trainer.log.steps=5")
    with interrupted_at(2):
        assert launch_here("resume=run", "trainer.log.steps=1").code == 130
    assert launch_here("resume=run", "trainer.log.steps=5").code == 0
    meta = read(Path("run"), "run_meta.json")
    assert [s["changes"] for s in meta["resumed"]] == [
        {"trainer.log.steps": 1},
        {"trainer.log.steps": 5},
    ]
    assert [o for o in meta["overrides"] if "log" in o] == ["trainer.log.steps=5"]


def test_resuming_a_finished_run(finished: Path) -> None:
    files = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.suffix != ".log"}
    done = launch_here(f"resume={finished}")
    assert done.code == 0
    assert "is complete; there is nothing left to do" in done.out
    assert f"init_from={finished}" in done.out
    done = launch_here(f"resume={finished}", "phase.task2.epochs=9")
    assert done.code == 2
    assert "phase.task2.epochs: phase task2 is finished" in done.err
    assert all(path.read_bytes() == content for path, content in files.items())


# -- real processes -------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], process: Launched) -> None:
    """Wait until the condition holds, while the process runs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


LONG = (*SINGLE[:-1], "phase.task1.epochs=3000", "trainer.validation.epochs=50")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_signals(number: signal.Signals, tmp_path: Path) -> None:
    process = fork(*LONG, "hydra.run.dir=run", cwd=tmp_path)
    wait_for((tmp_path / "run" / "checkpoints" / "last.safetensors").exists, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Stopping after this update" in err
    assert "Interrupted at update" in err
    assert "Continue with: python launch.py resume=" in err
    assert "Traceback" not in err
    assert read(tmp_path / "run", "run_meta.json")["status"] == "interrupted"
    assert all(row["step"] for row in rows(tmp_path / "run"))  # no torn line
    saved = load(tmp_path / "run")["progress"]["step"]
    done = launch_here("resume=run", f"phase.task1.epochs={saved // 3 + 2}")
    assert done.code == 0, done.err


def kill_and_resume(
    run: Path, arguments: tuple[str, ...], waits: list[float], cwd: Path
) -> list[int]:
    """Kill a run repeatedly with SIGKILL, then finish it; returns the saved updates."""
    saved = []
    for i, seconds in enumerate(waits):
        process = fork(*(arguments if i == 0 else (f"resume={run}",)), cwd=cwd)
        before = saved[-1] if saved else -1
        wait_for(lambda floor=before: steps_saved(run) > floor, process)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        saved.append(steps_saved(run))
        assert read(run, "run_meta.json")["status"] == "running"
        with pytest.raises(CheckpointError, match="1 killed"):
            latest_run(run)
    done = launch_here(f"resume={run}")
    assert done.code == 0, done.out + done.err
    assert not list((run / "checkpoints").glob(".*"))
    return saved


def steps_saved(run: Path) -> int:
    """Updates in the newest checkpoint; -1 without one."""
    with contextlib.suppress(CheckpointError):
        return int(load(run)["progress"]["step"])
    return -1


def kill_test(rule: tuple[str, ...], waits: list[float], epochs: int, tmp_path: Path) -> None:
    """A killed run with a checkpoint at every update equals an uninterrupted one."""
    lengths = [f"phase.{name}.epochs={epochs}" for name in ("task1", "task2")]
    arguments = (*TINY[:-2], *lengths, *DENSE, *rule)
    whole = train_here(tmp_path / "whole", *arguments)
    run = tmp_path / "run"
    saved = kill_and_resume(run, (*arguments, f"hydra.run.dir={run}"), waits, tmp_path)
    assert saved == sorted(saved)
    assert saved[0] < 2 * 3 * epochs  # killed before the end
    assert_same_run(run, whole)
    for name in ("task1-final", "task2-final"):
        assert same_weights(weights(run, name), weights(whole, name))


def test_killed(tmp_path: Path) -> None:
    kill_test((), [random.uniform(0, 0.2)], 8, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rule", [(), SURROGATE], ids=["local", "surrogate"])
def test_killed_repeatedly(rule: tuple[str, ...], tmp_path: Path) -> None:
    waits = [random.uniform(0, 0.4) for _ in range(6)]
    kill_test(rule, waits, 150, tmp_path)
