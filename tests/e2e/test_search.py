"""Searches from the command line: resuming, pruning, failures, copied code."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from unittest import mock

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from tests.e2e.helpers import ROOT, SINGLE, Outcome, launch_here, read, start

TINY = (*SINGLE, "trainer.validation.epochs=1", "hydra/sweeper=neuro")
RATE = "optimizer.lr=tag(log,interval(0.001,0.1))"


def search(directory: Path, *overrides: str) -> Outcome:
    given = {override.partition("=")[0] for override in overrides}
    base = [o for o in (*TINY, RATE) if o.partition("=")[0] not in given]
    return launch_here("-m", *base, *overrides, f"hydra.sweep.dir={directory}")


def study_in(directory: Path) -> optuna.Study:
    return optuna.load_study(
        study_name=directory.name, storage=f"sqlite:///{directory / 'study.db'}"
    )


def trials(directory: Path) -> list[dict[str, str]]:
    with open(directory / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of a search."""
    directory = tmp_path_factory.mktemp("search") / "rate"
    done = search(directory, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert "study rate: 2 trials (2 complete)" in done.out
    return directory


def test_files_of_a_search(searched: Path) -> None:
    rows = trials(searched)
    assert [row["trial"] for row in rows] == ["0", "1"]
    for row in rows:
        report = read(searched / row["trial"])
        assert float(row["test/accuracy"]) == report["objective"]
        assert 0.001 <= float(row["optimizer.lr"]) <= 0.1
    (best,) = yaml.safe_load((searched / "best.yaml").read_text())
    assert best["test/accuracy"] == max(float(row["test/accuracy"]) for row in rows)
    assert {p.name for p in (searched / "plots").iterdir()} >= {"history.png", "slices.png"}


def test_the_best_trial_runs_again(searched: Path, tmp_path: Path) -> None:
    (best,) = yaml.safe_load((searched / "best.yaml").read_text())
    _, _, *overrides = shlex.split(best["command"])
    done = launch_here(*overrides, f"hydra.run.dir={tmp_path / 'again'}")
    assert done.code == 0, done.err
    assert read(tmp_path / "again")["objective"] == best["test/accuracy"]
    first, again = (
        yaml.safe_load((run / "config.yaml").read_text())
        for run in (searched / str(best["trial"]), tmp_path / "again")
    )
    assert again["optimizer"]["lr"] == best["params"]["optimizer.lr"]
    assert again == {**first, "group": None}  # it is not in the group of the search


def test_the_same_command_completes_the_search(searched: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(searched, tmp_path / "rate")
    again = search(directory, "hydra.sweeper.n_trials=2")
    assert again.code == 0, again.err
    assert len(trials(directory)) == 2
    with (
        mock.patch("neuro.search.sweeper.WRITE_S", 0.0),
        mock.patch("neuro.search.sweeper.write_trials") as written,
    ):
        more = search(directory, "hydra.sweeper.n_trials=3")
    assert more.code == 0, more.err
    assert [len(call.args[0]) for call in written.call_args_list] == [3]  # between two trials
    rows = trials(directory)
    assert len(rows) == 3
    # the sampler's seed has advanced: the new proposal repeats no old one
    assert len({row["optimizer.lr"] for row in rows}) == 3
    assert (directory / "2" / "report.json").exists()


def test_a_config_of_hydra_optuna_sweeper_runs(tmp_path: Path) -> None:
    """A config from that package's documentation, also with additional keys."""
    folder = tmp_path / "configs"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "theirs.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /hydra/sweeper: optuna\n"
        "  - override /hydra/sweeper/sampler: tpe\n"
        "hydra:\n"
        "  sweeper:\n"
        "    sampler: {seed: 123}\n"
        "    direction: maximize\n"
        "    study_name: sphere\n"
        "    storage: null\n"
        "    n_trials: 2\n"
        "    n_jobs: 1\n"
        "    params:\n"
        "      optimizer.lr: tag(log, interval(0.001, 0.1))\n"
        "      seed: choice(0, 5)\n"
    )
    base = [o for o in TINY if not o.startswith("hydra/sweeper")]
    command = ("-m", "--config-dir", str(folder), "experiment=theirs", *base)
    done = launch_here(
        *command,
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "hydra.sweeper.storage=journal",
        "hydra.sweeper.enqueue=[{optimizer.lr:0.01,seed:5}]",
        "hydra.sweeper.constraints=['phases/task1/updates >= 1e9']",
    )
    assert done.code == 2
    assert "hydra.sweeper.constraints: trials do not report 'phases/task1/updates'" in done.err
    done = launch_here(
        *command,
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "hydra.sweeper.storage=journal",
        "hydra.sweeper.enqueue=[{optimizer.lr:0.01,seed:5}]",
        "hydra.sweeper.constraints=['test/loss <= 1e9', 'test/accuracy >= 0']",
    )
    assert done.code == 0, done.err
    assert "study sphere: 2 trials (2 complete)" in done.out
    assert (tmp_path / "sweep" / "study.log").stat().st_size
    assert not (tmp_path / "sweep" / "study.db").exists()
    first, second = trials(tmp_path / "sweep")
    assert (first["optimizer.lr"], first["seed"]) == ("0.01", "5")
    assert second["state"] == "complete"
    (best,) = yaml.safe_load((tmp_path / "sweep" / "best.yaml").read_text())
    assert f"python launch.py --config-dir {folder} experiment=theirs" in best["command"]
    done = launch_here(*command, "hydra.sweeper.search_space={x:{type:float,low:0,high:1}}")
    assert done.code == 2
    assert "hydra.sweeper.search_space: is not read. Use hydra.sweeper.params" in done.err


def test_the_sweeper_of_the_package_itself(tmp_path: Path) -> None:
    base = [o for o in TINY if not o.startswith("hydra/sweeper")]
    done = launch_here(
        "-m", *base, "hydra/sweeper=hydra_optuna", "hydra.sweeper.n_trials=2", RATE,
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert done.code == 0, done.err
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_params"].keys() == {"optimizer.lr"}


def test_another_space_is_refused(searched: Path) -> None:
    done = search(searched, "optimizer.lr=interval(0.1,0.2)", "seed=range(0,3)")
    assert done.code == 2
    assert "has another search space" in done.err
    assert "optimizer.lr has another range" in done.err
    assert "seed is new" in done.err
    assert len(trials(searched)) == 2


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (("optimizer.lr=0.01",), "hydra.sweeper.params: no parameter to search"),
        (
            ("optimizer.rate=interval(0,1)",),
            "hydra.sweeper.params.optimizer.rate: the config has no such key",
        ),
        (("optimizer.lr=interval(1,0)",), "hydra.sweeper.params.optimizer.lr: got 'interval(1,0)'"),
        (("hydra.sweeper.n_jobs=2",), "hydra.sweeper.n_jobs: got 2, but Hydra's default launcher"),
        (("mode=check",), "mode=check: trials of a study train"),
        (("model.neuron.tau_fast_ms=interval(-2.0,1.0)",), "got -2"),
        (("hydra.sweeper.n_trials=0",), "hydra.sweeper.n_trials: got 0"),
        (("hydra.sweeper.max_failure_rate=2",), "hydra.sweeper.max_failure_rate: got 2"),
        (("trainer.objective=test/acuracy",), "produces no 'test/acuracy'"),
        (
            ("hydra.sweeper.storage=postgresql://me:secret@127.0.0.1:1/none",),
            "cannot open postgresql://me@127.0.0.1:1/none",
        ),
    ],
)
def test_bad_input_ends_before_the_first_trial(
    overrides: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    done = search(tmp_path / "rate", *overrides)
    assert done.code == 2, done.out
    assert expected in done.err
    assert "secret" not in done.err + done.out
    assert not (tmp_path / "rate").exists()  # no files are frozen yet, so they can be edited


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    """Only trials with an excessive learning rate diverge."""
    directory = tmp_path / "rates"
    done = search(
        directory, "optimizer.lr=choice(1e30,0.01)", "experiment=ltgate_surrogate",
        "callbacks=[calibration]", "trainer.max_skipped=1", "hydra.sweeper.n_trials=4",
        "hydra.sweeper.max_failure_rate=1.0",
        "hydra/sweeper/sampler=random",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = trials(directory)
    assert len(rows) == 4
    for row in rows:
        failed = row["optimizer.lr"] == "1e+30"
        assert (row["state"] == "fail") is failed
        assert ("DivergedError" in row["reason"]) is failed


def test_too_many_failures_end_the_search(tmp_path: Path) -> None:
    directory = tmp_path / "bad"
    done = search(
        directory, "optimizer.lr=interval(1e17,1e18)", "experiment=ltgate_surrogate",
        "callbacks=[calibration]", "trainer.max_skipped=1", "hydra.sweeper.n_trials=9",
    )  # fmt: skip
    assert done.code != 0
    assert "4 of 4 trials failed" in done.err
    assert [row["state"] for row in trials(directory)] == ["fail"] * 4
    assert yaml.safe_load((directory / "best.yaml").read_text()) == []
    assert len(study_in(directory).trials) == 4


def test_config_files_are_frozen(searched: Path) -> None:
    kept, here = (
        searched / "frozen" / "conf" / "model" / "pixels.yaml",
        ROOT / "conf" / "model" / "pixels.yaml",
    )
    assert kept.read_text() == here.read_text()


def test_an_edited_file_does_not_change_later_trials(searched: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(searched, tmp_path / "rate")
    optimizer = directory / "frozen" / "conf" / "optimizer" / "local.yaml"
    assert optimizer.exists()
    changed = optimizer.read_text().replace("momentum: 0.0", "momentum: 0.5")
    assert changed != optimizer.read_text()
    optimizer.write_text(changed)  # simulate a different file at the start
    done = search(directory, "hydra.sweeper.n_trials=3")
    assert done.code == 0, done.err
    config = yaml.safe_load((directory / "2" / "config.yaml").read_text())
    assert config["optimizer"]["momentum"] == 0.5


def test_changed_code_is_reported_before_the_first_trial(searched: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(searched, tmp_path / "rate")
    frozen = directory / "frozen" / "neuro" / "run.py"
    frozen.write_text(frozen.read_text() + "\n# before an edit\n")
    done = search(directory, "hydra.sweeper.n_trials=3")
    assert done.code == 2
    assert "has changed since the study was started: neuro/run.py" in done.err
    assert len(trials(directory)) == 2


def test_unpromising_trials_are_pruned(tmp_path: Path) -> None:
    directory = tmp_path / "pruned"
    pruning = (
        "callbacks=[calibration,weight_bounds,pruning]", "callbacks.pruning.startup_trials=2",
        "phase.task1.epochs=4",
    )  # fmt: skip
    done = search(
        directory, *pruning, "optimizer.lr=choice(0.03,1e-12)", "experiment=ltgate_surrogate",
        "hydra.sweeper.n_trials=8", "trainer.monitor=val/loss", "trainer.direction=min",
        "hydra.sweeper.direction=minimize", "trainer.objective=test/loss",
        "hydra/sweeper/sampler=random",
    )  # fmt: skip
    assert done.code == 0, done.err
    pruned = [row for row in trials(directory) if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        assert float(row["optimizer.lr"]) == 1e-12
        assert read(directory / row["trial"], "run_meta.json")["status"] == "pruned"


@pytest.mark.slow
def test_a_trial_is_pruned_over_its_seeds(tmp_path: Path) -> None:
    directory = tmp_path / "seeds"
    rates = "[{optimizer.lr: 0.03}, {optimizer.lr: 1e-12}]"
    done = search(
        directory, "callbacks=[calibration,pruning]", "callbacks.pruning.pruner=wilcoxon",
        "callbacks.pruning.p_threshold=0.3", "repeats=3", "experiment=ltgate_surrogate",
        "optimizer.lr=choice(0.03,1e-12)", f"hydra.sweeper.enqueue={rates}",
        "hydra.sweeper.n_trials=2", "hydra.sweeper.objectives=[test/loss]",
    )  # fmt: skip
    assert done.code == 0, done.err
    good, bad = trials(directory)
    assert (good["state"], bad["state"]) == ("complete", "pruned")
    assert read(directory / "1", "run_meta.json")["status"] == "pruned"
    runs = sorted(path.name for path in (directory / "1").glob("repeat_*"))
    assert runs == ["repeat_0", "repeat_1"]
    losses = [read(directory / "1" / run)["metrics"]["test/loss"] for run in runs]
    assert float(bad["test/loss"]) == pytest.approx(sum(losses) / 2)


def test_several_objectives_have_a_pareto_front(tmp_path: Path) -> None:
    directory = tmp_path / "front"
    both = "hydra.sweeper.objectives=[test/accuracy,test/loss]"
    done = search(
        directory, both, "hydra.sweeper.direction=[maximize,minimize]", "hydra.sweeper.n_trials=3"
    )
    assert done.code == 0, done.err
    rows = trials(directory)
    front = yaml.safe_load((directory / "best.yaml").read_text())
    chosen = {str(entry["trial"]) for entry in front}
    pairs = {r["trial"]: (float(r["test/accuracy"]), -float(r["test/loss"])) for r in rows}
    for trial, (a, b) in pairs.items():
        dominated = any(x >= a and y >= b and (x, y) != (a, b) for x, y in pairs.values())
        assert (trial in chosen) is not dominated
    assert (directory / "plots" / "pareto.png").exists()
    assert read(directory / "0")["metrics"]["test/loss"] == float(rows[0]["test/loss"])


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (("hydra.sweeper.objectives=[test/accuracy,hardware/cores]",
          "hydra.sweeper.direction=[maximize,minimize]"), "do not report 'hardware/cores'"),
        (("hydra.sweeper.objectives=[test/accuracy,test/loss]",
          "hydra.sweeper.direction=maximize"), "got 1 for 2 objectives"),
        (("hydra.sweeper.direction=minimize",), "test/accuracy, which is a metric to maximize"),
        (("hydra.sweeper.objectives=[test/accuracy,test/loss]",
          "callbacks=[calibration,pruning]"), "several objectives cannot prune"),
        (("callbacks=[calibration,pruning]", "trainer.monitor=val/loss", "trainer.direction=min"),
         "prunes by trainer.monitor=val/loss (min)"),
        (("callbacks=[calibration,pruning]", "repeats=2"),
         "repeats: got 2, but callbacks.pruning.pruner=median compares"),
        (("callbacks=[calibration,pruning]", "callbacks.pruning.pruner=wilcoxon"),
         "callbacks.pruning.pruner: got wilcoxon"),
    ],
)  # fmt: skip
def test_objectives_that_do_not_fit(
    overrides: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    done = search(tmp_path / "front", *overrides)
    assert done.code == 2
    assert expected in done.err


def test_pruning_outside_a_sweep_is_refused(tmp_path: Path) -> None:
    done = launch_here(*SINGLE, "callbacks=[pruning]", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 2
    assert "callbacks.pruning: this run is not a trial of a study" in done.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_search_is_resumed(tmp_path: Path) -> None:
    """SIGKILL in a trial: it is marked, its values are tried again, no process remains."""
    directory = tmp_path / "killed"
    command = ["-m", *TINY, RATE, f"hydra.sweep.dir={directory}", "phase.task1.epochs=200",
               "hydra.sweeper.n_trials=2"]  # fmt: skip
    command = [c for c in command if c != "phase.task1.epochs=2"]
    process = start(*command, cwd=tmp_path)
    deadline = time.time() + 120
    while not (directory / "0" / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = study_in(directory).get_trials(states=(TrialState.RUNNING,))
    done = search(directory, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    found = study_in(directory).trials
    assert not [t for t in found if t.state is TrialState.RUNNING]
    assert found[0].state is TrialState.FAIL
    assert found[0].user_attrs["killed"] is True
    assert found[1].params == left.params
    assert sum(t.state is TrialState.COMPLETE for t in found) == 2
    assert sqlite3.connect(directory / "study.db").execute("select 1").fetchone() == (1,)
    assert json.loads((directory / "1" / "report.json").read_text())["objective"] >= 0
