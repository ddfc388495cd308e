"""repeats=N: runs with several seeds as one set, its report, and a set that was stopped."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from neuro.__main__ import main
from neuro.analysis.compare.comparison import compare
from neuro.analysis.compare.statistics import mean_ci
from neuro.runs.record import RunRecord, find_runs, latest_run
from tests.e2e.helpers import SINGLE, assert_same_run, launch_here, read, train_here
from tests.e2e.test_resume import interrupted_at

#: different test samples for every seed, as in studies
SEEDED = (*SINGLE, "data.split_seed=${seed}", "seed=3")


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed set of two repeats."""
    return train_here(tmp_path_factory.mktemp("sets") / "set", *SEEDED, "repeats=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference run: the same as the second repeat."""
    return train_here(tmp_path_factory.mktemp("sets") / "alone", *SEEDED, "seed=4")


def test_a_repeat_is_the_run_of_its_seed(repeated: Path, alone: Path) -> None:
    assert_same_run(repeated / "repeat_1", alone)
    record = RunRecord(repeated / "repeat_1")
    assert (record.seed, record.config["seed"], record.config["data"]["split_seed"]) == (4, 4, 4)
    assert record.meta["group"] == RunRecord(repeated).meta["run_id"]
    assert not list((repeated / "repeat_1").glob("run.log"))


def test_the_report_of_a_set(repeated: Path) -> None:
    report, parts = read(repeated), [read(repeated / f"repeat_{k}") for k in range(2)]
    for name, found in report["aggregate"].items():
        values = [part["metrics"][name] for part in parts]
        interval = mean_ci(values)
        assert (found["mean"], found["std"]) == (interval.mean, interval.std)
        assert (found["low"], found["high"]) == (interval.low, interval.high)
    assert set(report["aggregate"]) == set(parts[0]["metrics"])
    assert report["objective"] == sum(part["objective"] for part in parts) / 2
    assert report["metrics"]["test/accuracy"] == report["objective"]
    assert [row["seed"] for row in report["repeats"]] == [3, 4]
    meta = read(repeated, "run_meta.json")
    assert (meta["status"], meta["mode"]) == ("completed", "repeats")


def test_modes_read_a_set(repeated: Path) -> None:
    runs = find_runs(repeated.parent)
    found = compare(r for r in runs if r.path.is_relative_to(repeated))
    (configuration,) = found.configurations
    assert [run.record.seed for run in configuration.runs] == [3, 4]
    assert latest_run(repeated, accept=lambda run: run.meta["mode"] == "train").seed == 4
    assert [run.path.name for run in RunRecord(repeated).repeats()] == ["repeat_0", "repeat_1"]
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["runs", str(repeated)]) == 0
        assert main(["compare", str(repeated)]) == 0
    lines = [line for line in out.getvalue().splitlines() if "completed" in line]
    assert len(lines) == 3
    assert sum("repeats" in line for line in lines) == 1


def test_a_stopped_set_is_resumed(repeated: Path) -> None:
    """Stopped at the second repeat's fourth update of six; the first one stays unchanged."""
    with interrupted_at(10):
        done = launch_here(*SEEDED, "repeats=2", "hydra.run.dir=set")
    assert done.code == 130
    assert done.err.count("Continue with") == 1
    assert done.err.endswith(f"python launch.py resume={Path('set').absolute()}\n")
    assert read(Path("set"), "run_meta.json")["status"] == "interrupted"
    before = (Path("set") / "repeat_0" / "report.json").stat().st_mtime_ns
    done = launch_here("resume=set")
    assert done.code == 0, done.err
    assert "Repeat 2 of 2, seed 4" in done.out
    assert (Path("set") / "repeat_0" / "report.json").stat().st_mtime_ns == before
    for k in range(2):
        assert_same_run(Path(f"set/repeat_{k}"), repeated / f"repeat_{k}")
    assert read(Path("set"))["aggregate"] == read(repeated)["aggregate"]
    assert read(Path("set"), "run_meta.json")["status"] == "completed"


def test_a_set_grows(repeated: Path, tmp_path: Path) -> None:
    grown = Path(shutil.copytree(repeated, tmp_path / "grown"))
    done = launch_here(f"resume={grown}", "repeats=3")
    assert done.code == 0, done.err
    report = read(grown)
    assert [row["seed"] for row in report["repeats"]] == [3, 4, 5]
    assert report["aggregate"]["test/loss"]["n"] == 3
    assert RunRecord(grown / "repeat_2").config["data"]["split_seed"] == 5
    first = read(repeated)
    assert report["repeats"][:2] == first["repeats"]
    assert read(grown, "run_meta.json")["resumed"][0]["changes"] == {"repeats": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["repeats=1"], "repeats: got 1, but"),
        (["seed=9"], "seed: cannot change when a run is resumed"),
        (["phase.task1.epochs=3"], "phase task1 is finished"),
        (["mode=check"], "resume: continues training"),
    ],
)
def test_what_a_resumed_set_refuses(arguments: list[str], message: str, repeated: Path) -> None:
    before = read(repeated), read(repeated, "run_meta.json")
    done = launch_here(f"resume={repeated}", *arguments)
    assert done.code == 2
    assert message in done.err
    assert (read(repeated), read(repeated, "run_meta.json")) == before


def test_a_single_run_cannot_be_extended_to_a_set(alone: Path) -> None:
    done = launch_here(f"resume={alone}", "repeats=2")
    assert done.code == 2
    assert "is a single run; start a set of its own with repeats=2" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["repeats=0"], "repeats: got 0; input should be greater than or equal to 1"),
        (["repeats=2", "trainer.monitor=val/acc"], "Did you mean 'val/accuracy'?"),
        (["repeats=2", "init_from=latest"], "there is no completed run to take"),
    ],
)
def test_bad_input_leaves_nothing(arguments: list[str], message: str) -> None:
    done = launch_here(*SINGLE, *arguments)
    assert done.code == 2
    assert message in done.err
    assert not list(Path().iterdir())


def test_latest_is_resolved_once(alone: Path) -> None:
    """All repeats start from the run that was the latest when the set began."""
    shutil.copytree(alone, "outputs/a/run")
    done = launch_here(*SEEDED, "repeats=2", "init_from=latest", "hydra.run.dir=outputs/set")
    assert done.code == 0, done.err
    sources = [RunRecord(f"outputs/set/repeat_{k}").config["init_from"] for k in range(2)]
    assert sources == ["outputs/a/run"] * 2


def test_check_reports_the_repeats() -> None:
    done = launch_here(*SINGLE, "repeats=4", "mode=check")
    assert done.code == 0, done.err
    assert "repeats=4: training runs 4 times, each with its own seed." in done.out
    assert not list(Path().rglob("run_meta.json"))
