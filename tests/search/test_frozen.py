"""Copies of the code: trials of a study use the code copied at its start, also after edits."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import neuro
from neuro.errors import ConfigError
from neuro.search.frozen import FrozenTask, code_digest, freeze_code, running_frozen


@pytest.fixture
def home(tmp_path: Path) -> Path:
    freeze_code(tmp_path, accept=False)
    return tmp_path / "frozen"


def test_the_copy_is_the_code(home: Path) -> None:
    assert code_digest(home) == code_digest(Path(neuro.__file__).parents[1])
    assert (home / "launch.py").exists()
    assert (home / "hydra_plugins" / "neuro_sweeper.py").exists()
    assert not list(home.rglob("__pycache__"))
    assert not (home / "neuro" / "conf").exists()  # config files are in `conf`


def test_changed_code_is_refused_unless_it_is_accepted(home: Path) -> None:
    changed = home / "neuro" / "errors.py"  # simulate an edited checkout
    changed.write_text(changed.read_text() + "\n# older\n")
    with pytest.raises(ConfigError) as error:
        freeze_code(home.parent, accept=False)
    assert "has changed since the study was started: neuro/errors.py. Continue" in str(error.value)
    assert f"python {home / 'launch.py'} -m" in str(error.value)
    freeze_code(home.parent, accept=True)
    assert "# older" not in changed.read_text()


def test_later_imports_use_the_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is added to the checkout during a sweep does not exist for its trials."""
    (home / "neuro" / "ops" / "only_in_the_copy.py").write_text("VALUE = 7\n")
    (home / "neuro" / "ops" / "codebook.py").unlink()  # simulate a module added to the checkout
    monkeypatch.delitem(sys.modules, "neuro.ops.codebook", raising=False)
    monkeypatch.delitem(sys.modules, "neuro.hardware.lava", raising=False)
    before = list(sys.path), os.environ.get("PYTHONPATH"), list(sys.meta_path)
    with running_frozen(home.parent):
        with pytest.raises(ModuleNotFoundError, match="No module named 'neuro.ops.codebook' in"):
            importlib.import_module("neuro.ops.codebook")
        module = importlib.import_module("neuro.ops.only_in_the_copy")
        package = importlib.import_module("neuro.hardware.lava")
        assert package.__path__ == [str(home / "neuro" / "hardware" / "lava")]
        command = [sys.executable, "-c", "import neuro; print(neuro.__file__)"]
        worker = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    del sys.modules["neuro.ops.only_in_the_copy"]
    assert module.VALUE == 7
    assert worker.stdout.strip() == str(home / "neuro" / "__init__.py")
    assert (list(sys.path), os.environ.get("PYTHONPATH"), list(sys.meta_path)) == before
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("neuro.ops.only_in_the_copy")
    # the copy may be removed, so later imports use the checkout
    assert package.__path__ == [str(Path(neuro.__file__).parent / "hardware" / "lava")]


def test_a_worker_with_other_code_refuses(home: Path) -> None:
    assert FrozenTask(lambda cfg: cfg + 1, code_digest(home))(1) == 2
    with pytest.raises(ConfigError, match="has other code"):
        FrozenTask(lambda cfg: cfg + 1, "another digest")(1)
