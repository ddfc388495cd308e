"""Paths of a config: the home directory, and data that are found from any directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from neuro.config.paths import with_paths, with_quoted_home


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_path_key(home: Path) -> None:
    here = os.getcwd()
    config = {
        "runs_dir": "~/runs",
        "run": ["~/a", "b"],
        "init_from": "latest",
        "teacher": "~/t",
        "resume": None,
        "data": {
            "path": "x.h5",
            "root": "~",
            "tasks": {"a": {"path": "~/a.h5"}, "b": {"train": "b.h5", "test": None}, "c": None},
            "images": {"path": "~/mnist"},
        },
        "model": {"architecture": "net.yaml"},
    }
    before = repr(config)
    assert with_paths(config) == {
        "runs_dir": f"{home}/runs",
        "run": [f"{home}/a", "b"],
        "init_from": "latest",
        "teacher": f"{home}/t",
        "resume": None,
        "data": {
            "path": f"{here}/x.h5",
            "root": str(home),
            "tasks": {
                "a": {"path": f"{home}/a.h5"},
                "b": {"train": f"{here}/b.h5", "test": None},
                "c": None,
            },
            "images": {"path": f"{home}/mnist"},
        },
        "model": {"architecture": f"{here}/net.yaml"},
    }
    assert repr(config) == before
    assert with_paths(with_paths(config)) == with_paths(config)


@pytest.mark.parametrize("wrong", [{"data": 5}, {"data": {"tasks": [1]}}, {"run": [1, "~"]}, {}])
def test_values_of_wrong_types_are_left_to_the_parser(wrong: dict) -> None:
    assert with_paths(wrong) == wrong


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("data.path=~/x y.h5", "~/x y.h5"),
        ("data.path=~", "~"),
        ("run=[~/a,~/b]", ["~/a", "~/b"]),
        ("data.tasks={a: {path: ~/a.h5}}", {"a": {"path": "~/a.h5"}}),
        ("data.path='~/x'", "~/x"),
        ("hydra.run.dir=~/out", "HOME/out"),
        ("data.path=/x~/y", "/x~/y"),
    ],
)
def test_hydra_accepts_a_tilde(home: Path, argument: str, value: object) -> None:
    if argument == "data.path=/x~/y":
        assert with_quoted_home(argument) == argument
        return
    (override,) = OverridesParser.create().parse_overrides([with_quoted_home(argument)])
    found = override.value()
    if isinstance(value, str):
        value = value.replace("HOME", str(home))
        found = getattr(found, "text", found)
    assert found == value


def test_deletions_and_flags_are_not_changed() -> None:
    for argument in ("~callbacks.pruning", "--cfg", "-m", "--config-dir=~/x", "a=1,2", "~a=1"):
        assert with_quoted_home(argument) == argument
