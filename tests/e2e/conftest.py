"""Data and finished runs that the end-to-end tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.helpers import SINGLE, TINY, train_here


@pytest.fixture(scope="session", autouse=True)
def _data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One folder of made data for all tests of all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURO_DATA", str(shared / "data"))
        yield


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths such as outputs/ land in the test's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed curriculum of two tasks."""
    return train_here(tmp_path_factory.mktemp("runs") / "finished", *TINY)


@pytest.fixture(scope="session")
def task1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed run of the first task alone."""
    return train_here(tmp_path_factory.mktemp("runs") / "task1", *SINGLE)
