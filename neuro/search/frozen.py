"""A copy of the config files and the code, made when a study is started.

Edits during a sweep must not affect its later trials. Therefore both are copied to a folder of the
sweep's directory, which is then a complete checkout: configs of trials are composed from the copied
files, workers import the copied package, and an import hook finds modules there that this process
has not imported yet. A recorded digest alone could only end a sweep after an edit. The command
`python <sweep>/frozen/launch.py` runs the copied code at any later time.

Only neuro itself is copied, not the packages of users that a `_target_` names.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from hydra.core.config_search_path import ConfigSearchPath
from hydra.types import TaskFunction
from omegaconf import DictConfig

import neuro
from neuro.errors import ConfigError
from neuro.io.files import write_json
from neuro.runs.metadata import REVISION_FILE, git_revision
from neuro.search.composing import CachingLoader

#: packages that are copied, besides launch.py
_PACKAGES = ("neuro", "hydra_plugins")
_FOLDER = "frozen"


@contextmanager
def freezing(directory: Path) -> Iterator[None]:
    """Remove a new copy again if the body raises, because no trial has used it yet.

    Otherwise the user's correction of the error would count as changed code.
    """
    fresh = not (directory / _FOLDER).exists()
    try:
        yield
    except BaseException:
        if fresh:
            shutil.rmtree(directory / _FOLDER, ignore_errors=True)
            with suppress(OSError):  # not empty: the directory holds other files
                directory.rmdir()
        raise


def frozen_loader(search_path: ConfigSearchPath, directory: Path) -> CachingLoader:
    """A loader of the copied config files; copies them to `directory` if they are not there yet."""
    path = copy.deepcopy(search_path)
    for i, element in enumerate(path.get_path()):
        scheme, _, path_of_files = (element.path or "").rpartition("://")
        if scheme not in ("", "file", "yaml") or not path_of_files:
            continue
        name = "conf" if element.provider == "main" else f"conf-{i}-{element.provider}"
        kept = directory / _FOLDER / name
        if not kept.exists() and Path(path_of_files).is_dir():
            _copy(Path(path_of_files), kept)
        element.path = f"{scheme or 'file'}://{kept}"
    return CachingLoader(path)


def freeze_code(directory: Path, *, accept: bool) -> str:
    """Copy the code to a sweep's directory, unless it is there already; returns its digest.

    - `accept`: replace a copy that differs from the current code

    ConfigError if the copy differs and `accept` is False.
    """
    home, digest = directory / _FOLDER, _digest_once(_root())
    if (home / "neuro").exists():
        if code_digest(home) == digest:
            return digest
        if not accept:
            raise ConfigError(
                f"The code has changed since the study was started: {_difference(home, _root())}. "
                f"Continue with the copied code: python {home / 'launch.py'} -m ... (the same "
                "overrides), or with the new code: hydra.sweeper.accept_code=true, or start a new "
                "study in another hydra.sweep.dir."
            )
        for package in _PACKAGES:
            shutil.rmtree(home / package)
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / REVISION_FILE, git_revision())
    shutil.copy2(_root() / "launch.py", home)
    for package in reversed(_PACKAGES):  # neuro last: if it exists, the copy is complete
        # neuro/conf is what `frozen_loader` copies to `conf`
        _copy(_root() / package, home / package, "conf")
    return digest


@contextmanager
def running_frozen(directory: Path) -> Iterator[None]:
    """Make imports of this process and of its child processes load the copied code.

    Modules that are loaded already stay as they are.
    """
    home, root = str(directory / _FOLDER), str(_root())
    finder = _CopyFinder(Path(home))
    found, inherited = list(sys.path), os.environ.get("PYTHONPATH")
    sys.meta_path.insert(0, finder)
    sys.path[:] = [home, *found]  # multiprocessing passes it on to the processes that it spawns
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [home, *(part for part in (inherited or "").split(os.pathsep) if part and part != root)]
    )
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            # a package from the copy, which may be removed, has modules left to load
            copied = name.partition(".")[0] == "neuro" and getattr(module, "__path__", None)
            if copied and copied[0].startswith(home):
                module.__path__ = [str(_root().joinpath(*name.split(".")))]
        sys.path[:] = found
        if inherited is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = inherited


class _CopyFinder(MetaPathFinder):
    """Import hook: neuro's modules come from the copy, also those of packages loaded before."""

    def __init__(self, home: Path):
        self._home = home

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec, None for other packages.

        ModuleNotFoundError if the copy lacks the module; the checkout may have got it since.
        """
        if name.partition(".")[0] != "neuro":
            return None
        folder = self._home.joinpath(*name.split(".")[:-1])
        spec = PathFinder.find_spec(name, [str(folder)])
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r} in {folder}", name=name)
        return spec


@dataclass(frozen=True)
class FrozenTask:
    """A trial's task function. ConfigError if the worker's code differs from the study's."""

    task: TaskFunction
    digest: str

    def __call__(self, cfg: DictConfig) -> object:
        here = _root()
        if _digest_once(here) != self.digest:
            raise ConfigError(
                f"A worker of this sweep has other code, in {here}. Start it with the copy in the "
                "sweep's directory: PYTHONPATH=<sweep>/frozen."
            )
        return self.task(cfg)


def code_digest(root: Path) -> str:
    """SHA-256 of the Python files of a checkout or of a copy."""
    digest = hashlib.sha256()
    for name, content in _sources(root).items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


#: for the code that this process runs: edits of its files do not change it
_digest_once = functools.cache(code_digest)


def _sources(root: Path) -> dict[str, bytes]:
    files = [root / "launch.py"]
    for package in _PACKAGES:
        files += sorted((root / package).rglob("*.py"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.exists()}


def _difference(old: Path, new: Path) -> str:
    """Names of up to three files that differ, and the number of further ones."""
    before, after = _sources(old), _sources(new)
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _root() -> Path:
    """The checkout, or the copy of one, whose code this process runs."""
    return Path(neuro.__file__).parents[1]


def _copy(source: Path, target: Path, *ignored: str) -> None:
    """Copy a directory without the names that are ignored; a target that exists is complete."""
    partial = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    left_out = shutil.ignore_patterns("__pycache__", "*.pyc", *ignored)
    shutil.copytree(source, partial, ignore=left_out)
    partial.rename(target)
