"""Data and finished runs that the end-to-end tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.helpers import SINGLE, TINY, train_here


@pytest.fixture(scope="session", autouse=True)
def _data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One directory of generated data for all tests and workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURO_DATA", str(shared / "data"))
        yield


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own directory, where relative paths such as outputs/ end up."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed curriculum of two tasks."""
    return train_here(tmp_path_factory.mktemp("runs") / "finished", *TINY)


@pytest.fixture(scope="session")
def task1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed run of the first task alone."""
    return train_here(tmp_path_factory.mktemp("runs") / "task1", *SINGLE)
