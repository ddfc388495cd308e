"""A stored study: its URL, the owners of its trials, and its samplers."""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import optuna
import pytest
from optuna.trial import TrialState

from neuro.errors import ConfigError
from neuro.runs.metadata import without_password
from neuro.search.constraints import parse_constraints
from neuro.search.samplers import check_sampler, enqueue_grid, make_sampler
from neuro.search.space import parse_space
from neuro.search.storage import close_storage, current_trial, file_of, storage_url, trial_reference
from neuro.search.study import (
    StoredStudy,
    StudySpec,
    ask,
    fail,
    failure_reason,
    finished,
    heartbeats,
    open_study,
    record_violations,
    requeue,
    requeue_stale,
    running,
    violated,
)
from neuro.search.summary import study_result
from tests.test_conf import CONF

SPACE = parse_space({"x": "choice(1,2,3)", "y": "choice(a,b)"}, (), ())


def sampler(*overrides: str) -> Any:
    """The sampler of a sweep's config, as Hydra instantiates it."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(
            "config", overrides=["hydra/sweeper=neuro", *overrides], return_hydra_config=True
        )
    return hydra.utils.instantiate(cfg.hydra.sweeper.sampler)


def spec(**changes: Any) -> StudySpec:
    settings: dict[str, Any] = {
        "name": "study",
        "space": SPACE.as_text(),
        "objectives": ("test/accuracy",),
        "directions": ("maximize",),
        "code": "1",
        "accept_code": False,
    }
    return StudySpec(**settings | changes)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return storage_url(None, tmp_path)


@pytest.fixture
def study(url: str) -> optuna.Study:
    return open_study(url, spec())


def of_another_host(study: StoredStudy, trial: optuna.trial.Trial) -> None:
    owner = {"host": "elsewhere", "pid": 1, "started": 0.0, "asked": time.time() - 60}
    trial.set_user_attr("owner", owner)


def test_a_password_is_passed_to_the_client_only(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, clear=False):
        os.environ.pop("PGPASSWORD", None)
        for given in ("postgresql://me:s3cret@host/db", "postgresql://me@host/db?password=s3cret"):
            assert storage_url(given, tmp_path) == "postgresql://me@host/db"
            assert os.environ.pop("PGPASSWORD") == "s3cret"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a=postgresql://me:s3cret@host/db b", "a=postgresql://me:***@host/db b"),
        ("postgresql://me:s3/cr@et@host/db", "postgresql://me:***@host/db"),
        ("'postgresql://host/db?password=s3cret&a=b'", "'postgresql://host/db?password=***&a=b'"),
        ("sqlite:///a:b/c.db", "sqlite:///a:b/c.db"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    "given, expected",
    [
        ("mysql://me:s3cret@host/db", "got a URL of mysql; allowed: null"),
        ("me:s3cret@host", "which is not a URL"),
        ("sqlite://", "sqlite:/// needs the path of a file"),
    ],
)
def test_other_storages_are_refused(given: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        storage_url(given, tmp_path)
    assert expected in str(error.value)


def test_a_relative_file_is_the_same_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_url("sqlite:///a.db", tmp_path) == f"sqlite:///{tmp_path / 'a.db'}"


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"space": {"z": "other"}},
            "another search space: z is new, x is missing, y is missing",
        ),
        ({"directions": ("minimize",)}, "got minimize, but the study 'study' has maximize"),
        ({"objectives": ("test/loss",)}, "got test/loss, but the study 'study' has test/accuracy"),
        ({"code": "2"}, "was started with other code"),
    ],
)
def test_another_study_is_refused(
    study: StoredStudy, url: str, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        open_study(url, spec(**changes))
    assert expected in str(error.value)


def test_other_code_can_be_accepted(study: StoredStudy, url: str) -> None:
    open_study(url, spec(code="2", accept_code=True))
    open_study(url, spec(code="2"))


def test_a_journal_is_a_study_for_several_processes(tmp_path: Path) -> None:
    url = storage_url("journal", tmp_path)
    assert url == f"journal:///{tmp_path / 'study.log'}"
    one, other = open_study(url, spec()), open_study(url, spec())
    first = ask(one)
    assert [trial.number for trial in running(other.trials)] == [first.number]
    with heartbeats(other, [first]):
        one.tell(first, 0.5)
    assert other.trials[0].values == [0.5]


def test_commits_are_not_synchronous_and_closing_leaves_one_file(
    study: StoredStudy, url: str, tmp_path: Path
) -> None:
    with study.storage.engine.connect() as connection:  # type: ignore[attr-defined]
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        ]
    assert settings == ["wal", 1]
    ask(study)
    close_storage(study.storage)
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]
    with contextlib.closing(sqlite3.connect(file_of(url))) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert len(running(study.trials)) == 1  # opened again


def test_a_study_in_use_elsewhere_stays_open_there(study: StoredStudy, url: str) -> None:
    other = open_study(url, spec())
    ask(other)
    close_storage(study.storage)
    ask(other)
    assert len(other.trials) == 2


def test_a_study_of_optuna_2_is_upgraded_and_continued(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript((Path(__file__).parent / "optuna_2_study.sql").read_text())
    old = file.read_bytes()
    searched = parse_space({"optimizer.lr": "tag(log,interval(0.001,0.1))"}, (), ())
    study = open_study(f"sqlite:///{file}", spec(name="lr", space=searched.as_text()))
    assert [trial.value for trial in study.trials] == [0.4, 0.9]
    assert 0.001 <= searched.suggest(ask(study))["optimizer.lr"] <= 0.1
    (kept,) = tmp_path.glob("study.db.*")
    assert kept.read_bytes() == old


def test_a_study_of_a_newer_optuna_is_refused(study: StoredStudy, url: str, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(file_of(url))) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        database.execute("UPDATE version_info SET schema_version = 99")
        database.commit()
    with pytest.raises(ConfigError, match=r"made by a newer Optuna \(tables v99.0.0.a\)"):
        open_study(url, spec())


@pytest.mark.parametrize("content", [b"", b"no database", b"{}\n{", bytes(range(256))])
@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_damaged_or_foreign_file_is_named(
    content: bytes, storage: str | None, tmp_path: Path
) -> None:
    url = storage_url(storage, tmp_path)
    file_of(url).write_bytes(content)
    if not content:  # a file that Optuna fills
        open_study(url, spec())
        return
    with pytest.raises(ConfigError, match=r"cannot open .*study\.(db|log).*Move the file away"):
        open_study(url, spec())


def test_a_study_of_plain_optuna_can_be_continued(url: str) -> None:
    theirs = optuna.create_study(study_name="study", storage=url, direction="maximize")
    living = theirs.ask()
    study = open_study(url, spec())
    requeue_stale(study)  # it does not belong to a sweep
    theirs.tell(living, 0.5)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_trials_beyond_a_constraint_are_not_the_best(study: StoredStudy) -> None:
    constraints = parse_constraints(["hardware/cores <= 128", "test/accuracy>=.5"])
    for cores, accuracy in ((256, 0.9), (128, 0.8), (64, 0.4)):
        trial = ask(study)
        record_violations(trial, constraints, {"hardware/cores": cores, "test/accuracy": accuracy})
        study.tell(trial, accuracy)
    assert [violated(trial) for trial in study.trials] == [
        ["hardware/cores <= 128"],
        [],
        ["test/accuracy >= 0.5"],
    ]
    result = study_result(study, ("test/accuracy",))
    assert result.best == [1]
    assert result.trials[0].reason == "not hardware/cores <= 128"


def test_a_study_without_a_feasible_trial_has_no_best(study: StoredStudy) -> None:
    trial = ask(study)
    record_violations(trial, parse_constraints(["a <= 1"]), {"a": 2.0})
    study.tell(trial, 0.5)
    assert study_result(study, ("test/accuracy",)).best == []


@pytest.mark.parametrize("text", ["a < 1", "a <= b", "<= 1", "a 1", "a <= 1 <= 2"])
def test_constraints_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.constraints\[1\]: got"):
        parse_constraints(["x >= 1e-3", text])


def test_the_current_trial_is_found_in_the_study(study: StoredStudy, url: str) -> None:
    trial = ask(study)
    assert current_trial(None) is None
    with mock.patch.dict(os.environ, {"NEURO_TRIAL": trial_reference(url, "study", trial.number)}):
        own = current_trial(optuna.pruners.NopPruner())
    assert own is not None
    own.report(0.5, 3)  # in another process; the sweep reads it
    study.tell(trial, state=TrialState.PRUNED)
    assert study.trials[0].intermediate_values == {3: 0.5}


def test_trials_of_running_processes_are_not_changed(study: StoredStudy) -> None:
    ask(study)
    there = ask(study)
    of_another_host(study, there)
    requeue_stale(study)
    assert len(running(study.trials)) == 2
    with mock.patch("neuro.search.study.STALE_S", 30.0):  # the first heartbeat is too old
        with mock.patch("neuro.search.study.HEARTBEAT_S", 0.01), heartbeats(study, [there]):
            time.sleep(0.1)
        requeue_stale(study)
    assert len(running(study.trials)) == 2


def test_trials_of_killed_sweeps_are_queued_again(study: StoredStudy) -> None:
    here, there = ask(study), ask(study)
    values = [SPACE.suggest(trial) for trial in (here, there)]
    here.set_user_attr("owner", {"host": platform.node(), "pid": 2**22 + 1, "started": 0.0})
    of_another_host(study, there)
    with heartbeats(study, [there]):
        pass
    with mock.patch("neuro.search.study.STALE_S", -1.0):  # the last heartbeat is too old
        requeue_stale(study)
    assert [trial.state for trial in study.trials[:2]] == [TrialState.FAIL] * 2
    assert finished(study.trials) == []
    assert [SPACE.suggest(study.ask()) for _ in range(2)] == values


def test_failed_trials_are_counted_with_their_reasons(study: StoredStudy) -> None:
    fail(study, ask(study), "lost postgresql://me:s3cret@host/db")
    (trial,) = finished(study.trials)
    assert failure_reason(trial) == "lost postgresql://me:***@host/db"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("hydra/sweeper/sampler/*")))
def test_every_sampler_proposes(name: str, url: str) -> None:
    objectives = ("a", "b") if name.startswith("nsga") else ("a",)
    study = open_study(url, spec(objectives=objectives, directions=("maximize",) * len(objectives)))
    study.sampler = make_sampler(sampler(f"hydra/sweeper/sampler={name}"), 0)
    numbers = parse_space({"x": "interval(0.0,1.0)", "y": "tag(log,interval(0.001,1.0))"}, (), ())
    searched = SPACE if name == "grid" else numbers
    if name == "grid":
        assert enqueue_grid(study, searched) == 6
    found = []
    for _ in range(6):
        trial = ask(study)
        found.append(tuple(searched.suggest(trial).values()))
        study.tell(trial, [0.5] * len(objectives))
    assert len(set(found)) == 6


def test_a_killed_grid_is_continued(study: StoredStudy) -> None:
    study.sampler = make_sampler(sampler("hydra/sweeper/sampler=grid"), 0)
    enqueue_grid(study, SPACE)
    killed = ask(study)
    SPACE.suggest(killed)
    requeue(study, killed, "interrupted")
    enqueue_grid(study, SPACE)  # the same command
    found = []
    while len(finished(study.trials)) < 6:
        trial = ask(study)
        found.append(tuple(SPACE.suggest(trial).values()))
        study.tell(trial, 0.5)
    assert sorted(found) == [(x, y) for x in (1, 2, 3) for y in ("a", "b")]


def test_the_seed_depends_on_the_number_of_stored_trials() -> None:
    random = sampler("hydra/sweeper/sampler=random")
    drawn = []
    for stored in (0, 0, 1):
        study = optuna.create_study(sampler=make_sampler(random, stored))
        drawn.append(study.ask().suggest_float("x", 0, 1))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (
            ("hydra/sweeper/sampler=nsgaii", "hydra.sweeper.sampler.population_size=1"),
            "hydra.sweeper.sampler: `population_size` must be greater than or equal to 2",
        ),
        (("hydra.sweeper.sampler._partial_=false",), "needs _partial_: true"),
        (
            (
                "hydra/sweeper/sampler=random",
                "hydra.sweeper.sampler._target_=optuna.pruners.MedianPruner",
                "~hydra.sweeper.sampler.seed",
            ),
            "MedianPruner is not a sampler of Optuna",
        ),
    ],
)
def test_invalid_samplers(overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_sampler(sampler(*overrides), 0)


def test_spaces_that_cmaes_refuses() -> None:
    cmaes = sampler("hydra/sweeper/sampler=cmaes")
    with pytest.raises(ConfigError, match="sampler=cmaes: x has categories"):
        check_sampler(cmaes, SPACE, ("a",))
    numbers = parse_space({"x": "interval(0.0,1.0)", "y": "range(1,9,2)"}, (), ())
    with pytest.raises(ConfigError, match="takes one objective, got a, b"):
        check_sampler(cmaes, numbers, ("a", "b"))
    check_sampler(cmaes, numbers, ("a",))
    check_sampler(sampler(), SPACE, ("a", "b"))


def test_without_optuna_a_message() -> None:
    """In a separate process, because re-imported modules have different classes."""
    script = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")

sys.meta_path.insert(0, Missing())
from neuro.errors import BackendUnavailable
from hydra_plugins.neuro_sweeper import NeuroSweeper
try:
    NeuroSweeper().setup(hydra_context=None, task_function=None, config=None)
except BackendUnavailable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert "a search needs optuna: pip install" in done.stdout
