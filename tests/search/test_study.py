"""A stored study: its URL, the owners of its trials, and its samplers."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import optuna
import pytest
from optuna.trial import TrialState

from neuro.errors import ConfigError
from neuro.runs.metadata import without_password
from neuro.search.samplers import enqueue_grid, make_sampler
from neuro.search.space import parse_space
from neuro.search.storage import current_trial, storage_url, trial_reference
from neuro.search.study import (
    StoredStudy,
    StudySpec,
    ask,
    fail,
    failure_reason,
    finished,
    heartbeats,
    open_study,
    requeue,
    requeue_stale,
    running,
)
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
    trial.set_user_attr("owner", {"host": "elsewhere", "pid": 1, "started": 0.0})


def test_a_password_goes_to_the_client_and_nowhere_else(tmp_path: Path) -> None:
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


def test_a_trial_finds_itself_in_the_study(study: StoredStudy, url: str) -> None:
    trial = ask(study)
    assert current_trial(None) is None
    with mock.patch.dict(os.environ, {"NEURO_TRIAL": trial_reference(url, "study", trial.number)}):
        own = current_trial(optuna.pruners.NopPruner())
    assert own is not None
    own.report(0.5, 3)  # in another process; the sweep reads it
    study.tell(trial, state=TrialState.PRUNED)
    assert study.trials[0].intermediate_values == {3: 0.5}


def test_trials_of_this_process_and_of_living_ones_are_left_alone(study: StoredStudy) -> None:
    ask(study)
    there = ask(study)
    of_another_host(study, there)
    with heartbeats(study, [there]):
        requeue_stale(study)
    assert len(running(study)) == 2


def test_trials_of_killed_sweeps_are_queued_again(study: StoredStudy) -> None:
    here, there = ask(study), ask(study)
    values = [SPACE.suggest(trial) for trial in (here, there)]
    here.set_user_attr("owner", {"host": platform.node(), "pid": 2**22 + 1, "started": 0.0})
    of_another_host(study, there)
    with heartbeats(study, [there]):
        pass
    with mock.patch("neuro.search.study.STALE_S", -1.0):  # its last heartbeat was too long ago
        requeue_stale(study)
    assert [trial.state for trial in study.trials[:2]] == [TrialState.FAIL] * 2
    assert finished(study) == []
    assert [SPACE.suggest(study.ask()) for _ in range(2)] == values


def test_failed_trials_count_and_say_why(study: StoredStudy) -> None:
    fail(study, ask(study), "lost postgresql://me:s3cret@host/db")
    (trial,) = finished(study)
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


def test_a_grid_goes_on_where_it_was_killed(study: StoredStudy) -> None:
    study.sampler = make_sampler(sampler("hydra/sweeper/sampler=grid"), 0)
    enqueue_grid(study, SPACE)
    killed = ask(study)
    SPACE.suggest(killed)
    requeue(study, killed, "interrupted")
    enqueue_grid(study, SPACE)  # the same command
    found = []
    while len(finished(study)) < 6:
        trial = ask(study)
        found.append(tuple(SPACE.suggest(trial).values()))
        study.tell(trial, 0.5)
    assert sorted(found) == [(x, y) for x in (1, 2, 3) for y in ("a", "b")]


def test_the_seed_moves_on_with_the_stored_trials() -> None:
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
def test_samplers_that_are_none(overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_sampler(sampler(*overrides), 0)
