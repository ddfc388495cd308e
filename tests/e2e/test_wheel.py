"""The wheel that users install works in an empty folder, with its own config files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.helpers import ROOT, TINY

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is unpacked, as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("neuro", "conf", "hydra_plugins"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("launch.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True,
                   capture_output=True)  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(site), "NEURO_DATA": str(cwd / "data")},
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    command = "import sys, launch, neuro; print(launch.CONF); sys.exit(launch.command_line())"
    done = run(site, tmp_path, "-c", command, *TINY)
    assert done.returncode == 0, done.stderr
    assert str(site / "neuro" / "conf") in done.stdout
    done = run(site, tmp_path, "-m", "neuro", "runs")
    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    done = run(site, tmp_path, "-m", "neuro", "data", "example", "mine.h5")
    assert done.returncode == 0, done.stderr
