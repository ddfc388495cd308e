"""A search keeps the config files and the code that it began with.

Both are copied into the sweep's directory, where they make a whole checkout: later trials are
composed from the copied files, workers import the copied package, and what this process has not
imported yet comes from there too. So edits do not change a search that runs, and
`python <sweep>/frozen/launch.py` runs its code at any later time.

Only neuro itself is copied. Packages of one's own that a `_target_` names are not.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.types import TaskFunction

import neuro
from neuro.errors import ConfigError
from neuro.io.files import write_json
from neuro.runs.metadata import REVISION_FILE, git_revision

#: what belongs to the code, beside the checkout's launch.py
_PACKAGES = ("neuro", "hydra_plugins")
_FOLDER = "frozen"


@contextmanager
def freezing(directory: Path) -> Iterator[None]:
    """Within, a search begins; if it does not come to its first trial, no new copy stays.

    So what an error message asked for can be edited before the same command is given again.
    """
    fresh = not (directory / _FOLDER).exists()
    try:
        yield
    except BaseException:
        if fresh:
            shutil.rmtree(directory / _FOLDER, ignore_errors=True)
            with suppress(OSError):  # what is not ours stays
                directory.rmdir()
        raise


def frozen_loader(search_path: ConfigSearchPath, directory: Path) -> ConfigLoaderImpl:
    """A loader of the config files as they were when the sweep in `directory` began."""
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
    return ConfigLoaderImpl(config_search_path=path)


def freeze_code(directory: Path, *, accept: bool) -> str:
    """Copy the code into a sweep's directory, or find it there; returns its digest.

    ConfigError if the sweep began with other code, unless that is accepted: then the copy is
    replaced.
    """
    home, digest = directory / _FOLDER, code_digest(_root())
    if (home / "neuro").exists():
        if code_digest(home) == digest:
            return digest
        if not accept:
            raise ConfigError(
                f"The code has changed since this search began: {_difference(home, _root())}. "
                f"Go on with the code of the search: python {home / 'launch.py'} -m ... (the same "
                "overrides), or with the new code: hydra.sweeper.accept_code=true, or begin anew "
                "in another hydra.sweep.dir."
            )
        for package in _PACKAGES:
            shutil.rmtree(home / package)
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / REVISION_FILE, git_revision())
    shutil.copy2(_root() / "launch.py", home)
    for package in reversed(_PACKAGES):  # neuro last: its presence says that all is there
        _copy(_root() / package, home / package)
    return digest


@contextmanager
def running_frozen(directory: Path) -> Iterator[None]:
    """Within, imports of this process and of processes that it starts find the copied code."""
    home = str(directory / _FOLDER)
    packages = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "neuro" and hasattr(module, "__path__")
    ]
    paths = [list(module.__path__) for module in packages]
    found, inherited = list(sys.path), os.environ.get("PYTHONPATH")
    root = str(_root())
    for module in packages:
        module.__path__ = [str(Path(home, *module.__name__.split(".")))]
    sys.path[:] = [home, *found]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [home, *(part for part in (inherited or "").split(os.pathsep) if part and part != root)]
    )
    try:
        yield
    finally:
        for module, path in zip(packages, paths, strict=True):
            module.__path__ = path
        sys.path[:] = found
        if inherited is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = inherited


@dataclass(frozen=True)
class FrozenTask:
    """A sweep's job that refuses to run in a worker with other code."""

    task: TaskFunction
    digest: str

    def __call__(self, cfg: Any) -> Any:
        here = Path(neuro.__path__[0]).parent
        if _digest_once(here) != self.digest:
            raise ConfigError(
                f"A worker of this search runs other code, that in {here}. Give it the copy in the "
                "sweep's directory: PYTHONPATH=<sweep>/frozen."
            )
        return self.task(cfg)


def code_digest(root: Path) -> str:
    """A digest of the code of a checkout or of a copy of it."""
    digest = hashlib.sha256()
    for name, content in _sources(root).items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


_digest_once = functools.cache(code_digest)


def _sources(root: Path) -> dict[str, bytes]:
    files = [root / "launch.py"]
    for package in _PACKAGES:
        files += sorted((root / package).rglob("*.py"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.exists()}


def _difference(old: Path, new: Path) -> str:
    """The first files that differ, and how many more."""
    before, after = _sources(old), _sources(new)
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _root() -> Path:
    """The checkout that this process began with."""
    return Path(neuro.__file__).parents[1]


def _copy(source: Path, target: Path) -> None:
    """A copy that is either complete or not there."""
    partial = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source, partial, ignore=ignored)
    partial.rename(target)
