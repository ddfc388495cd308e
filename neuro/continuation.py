"""Finding finished and unfinished runs again, and what may change when one goes on.

A run is composed anew from the overrides that made it plus the new ones, so any key of it can be
named; what its saved config.yaml says wins over files in conf/ that were edited since, unless the
new overrides name it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from neuro.errors import CheckpointError, ConfigError

#: keys that name a saved run; at most one of them at a time composes from it
_SOURCES = ("resume", "run")

#: what a resumed run may change: nothing that would alter what it has learned so far
RESUMABLE = (
    "hardware", "tracking", "data.batch_size", "data.in_memory", "data.root", "data.path",
    "trainer.log", "trainer.validation", "trainer.checkpoint", "trainer.keep",
    "trainer.max_skipped", "callbacks.progress", "callbacks.plots", "callbacks.diagnostics",
    "tags", "group", "project", "resume", "mode",
)  # fmt: skip


class Location(NamedTuple):
    """A run directory and a checkpoint file in it (None: the caller chooses)."""

    directory: Path
    checkpoint: Path | None


def locate(source: str) -> Location:
    """The run that a directory or checkpoint file belongs to. CheckpointError if it is none."""
    path = Path(source)
    if path.is_file():
        return Location(_checked(path.parent.parent, source), path)
    return Location(_checked(path, source), None)


def _checked(directory: Path, source: str) -> Path:
    if not directory.exists():
        raise CheckpointError(f"{source}: there is no such run.")
    for name in ("config.yaml", "run_meta.json"):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{source}: not a run directory of neuro ({name} is missing in {directory})."
            )
    return directory


def saved_overrides(arguments: Sequence[str]) -> list[str]:
    """The overrides of the run that `resume=` or `run=` names, without those given anew."""
    source = next((a.partition("=")[2] for a in arguments if a.partition("=")[0] in _SOURCES), None)
    if source in (None, "", "null"):
        return []
    meta = json.loads((locate(source).directory / "run_meta.json").read_text())
    given = {_key(argument) for argument in arguments}
    return [o for o in meta["overrides"] if _key(o) not in given | {"resume", "run", "mode"}]


def continued_config(
    composed: DictConfig, source: str, overrides: Iterable[str], groups: Iterable[str]
) -> DictConfig:
    """The saved config of a run with the new overrides' values from the composed one."""
    directory = locate(source).directory
    saved = OmegaConf.load(directory / "config.yaml")
    assert isinstance(saved, DictConfig)
    made_it = set(json.loads((directory / "run_meta.json").read_text())["overrides"])
    for override in overrides:
        if override in made_it:
            continue
        key = _key(override)
        value = OmegaConf.select(composed, key)
        if isinstance(value, DictConfig) or key in groups:
            OmegaConf.update(saved, key, value, merge=False)
        elif override.startswith("~"):
            parent, _, child = key.rpartition(".")
            del OmegaConf.select(saved, parent)[child]
        else:
            OmegaConf.update(saved, key, value, force_add=True)
    return saved


def check_resumable(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The changes of a resumed run's config. ConfigError names those that are not allowed."""
    changes = list(_changes(saved, wanted))
    refused = [key for key, _, _ in changes if not _allowed(key)]
    if refused:
        raise ConfigError(
            f"{key}: cannot change when a run is resumed; what it has learned so far would no "
            "longer be what this config makes. Start a new run with init_from instead."
            for key in refused
        )
    return [(key, new) for key, _, new in changes if key not in _SOURCES]


def _allowed(key: str) -> bool:
    if key.startswith("phase.") and key.rpartition(".")[2] in ("epochs", "steps"):
        return True
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in RESUMABLE)


def _changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]
