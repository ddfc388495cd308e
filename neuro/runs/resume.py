"""Finding finished and unfinished runs again, and what may change when one goes on.

A run is composed anew from the overrides that made it plus the new ones, so any key of it can be
named; what its saved config.yaml says wins over files in conf/ that were edited since, unless the
new overrides name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from neuro.config.commands import unquoted
from neuro.config.paths import with_paths
from neuro.errors import CheckpointError, ConfigError
from neuro.runs.record import RunRecord, is_run

#: keys that name a saved run; at most one of them at a time composes from it
_SOURCES = ("resume", "run")

#: overrides of one invocation, which do not make a run what it is
_PASSING = (*_SOURCES, "mode")

#: against the `hydra.mode: MULTIRUN` of a study
_ALONE = "hydra.mode=RUN"

#: what a resumed run may change: nothing that would alter what it has learned so far
RESUMABLE = (
    "hardware", "tracking", "data.batch_size", "data.in_memory", "data.root", "data.path",
    "data.images.path",
    "trainer.accumulate", "trainer.log", "trainer.validation", "trainer.checkpoint",
    "trainer.keep", "trainer.max_skipped", "callbacks.progress", "callbacks.plots",
    "callbacks.diagnostics", "callbacks.profiler", "callbacks.early_stopping",
    "callbacks.gradient_health", "tags", "group", "project", "runs_dir", "repeats", *_PASSING,
)  # fmt: skip


class Location(NamedTuple):
    """A run directory and a checkpoint file in it (None: the caller chooses)."""

    directory: Path
    checkpoint: Path | None


def locate(source: str, key: str) -> Location:
    """The run that a directory or checkpoint file belongs to; `key` is what names it in the config.

    CheckpointError if there is none.
    """
    path = Path(source).expanduser()
    checkpoint = path if path.is_file() else None
    if checkpoint and not is_run(path.parent.parent):
        raise CheckpointError(
            f"{key}={source}: this file is no checkpoint of a run. Give a run directory or a file "
            "<run>/checkpoints/<name>.safetensors."
        )
    try:
        return Location(RunRecord(path.parent.parent if checkpoint else path).path, checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{key}={source}: {error}") from error


def runs_of(source: str | Sequence[str], key: str) -> list[str]:
    """The runs that a run, a set of repeats or several of them are. CheckpointError if none is."""
    found: list[str] = []
    for one in [source] if isinstance(source, str) else source:
        location = locate(one, key)
        record = RunRecord(location.directory)
        found += [str(run.path) for run in record.repeats()] if record.is_set else [one]
    return found


class SavedCall(NamedTuple):
    """What a run was composed from: overrides, and a directory of further options (or None)."""

    overrides: tuple[str, ...] = ()
    config_dir: str | None = None


def config_dir_of(sources: Iterable[Any]) -> str | None:
    """The directory of `--config-dir` among Hydra's config sources; None without one."""
    return next((s.path for s in sources if s.provider == "command-line"), None)


def saved_call(arguments: Sequence[str]) -> SavedCall:
    """What the run that `resume=` or `run=` names was composed from, without overrides given anew.

    A run that a study or an experiment with several runs has made is continued on its own.
    """
    sources = [a for a in arguments if key_of(a) in _SOURCES and "=" in a]
    value = _value(sources[0]) if sources else ""
    if value in ("", "null"):
        return SavedCall()
    key = key_of(sources[0])
    if key == "run":  # of several, the first
        listed = [unquoted(part.strip()) for part in value.strip("[]").split(",")]
        value = runs_of(listed[:1], key)[0]
    record = RunRecord(locate(value, key).directory)
    given = {key_of(argument) for argument in arguments if not argument.startswith("-")}
    alone = [] if {"-m", "--multirun"} & {*arguments} or "hydra.mode" in given else [_ALONE]
    kept = [
        override
        for override in lasting(record.overrides)
        if not any(_within(key_of(override), key) for key in given)
    ]
    return SavedCall((*alone, *kept), record.meta.get("config_dir"))


def lasting(overrides: Iterable[str]) -> list[str]:
    """The overrides that make a run what it is, without those of one invocation."""
    return [override for override in overrides if key_of(override) not in _PASSING]


def continued_config(
    composed: DictConfig, source: str, key: str, overrides: Iterable[str], groups: Iterable[str]
) -> DictConfig:
    """The saved config of a run with the new overrides' values from the composed one."""
    record = RunRecord(locate(source, key).directory)
    saved = OmegaConf.create(record.config)
    for name in composed:
        if name not in saved:  # a key that is younger than the run
            OmegaConf.update(saved, str(name), composed[name], force_add=True)
    made_it = set(record.overrides)
    for override in overrides:
        if override in made_it:
            continue
        key = key_of(override)
        if key in groups and key not in composed:
            raise ConfigError(
                f"{override}: sets several keys at once, which a run that exists already has. "
                "Give the keys themselves."
            )
        if override.startswith("~"):
            parent, _, child = key.rpartition(".")
            del OmegaConf.select(saved, parent)[child]
        else:
            value = OmegaConf.select(composed, key)
            OmegaConf.update(saved, key, value, merge=False, force_add=True)
    return saved


def changes_of(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run's config changes. ConfigError names the keys that must not change."""
    # runs of older versions have paths as they were given
    changes = {key: new for key, _, new in differences(with_paths(saved), with_paths(wanted))}
    refused = [key for key in changes if not _allowed(key)]
    if refused:
        raise ConfigError(
            f"{key}: cannot change when a run is resumed; what it has learned so far would no "
            "longer be what this config makes. Start a new run with init_from instead."
            for key in refused
        )
    return {key: new for key, new in changes.items() if key not in _PASSING}


def check_unfinished(changes: Iterable[str], finished: Iterable[str]) -> None:
    """ConfigError if a change concerns one of the phases that a run has finished."""
    problems = [
        f"{key}: phase {phase} is finished; its length cannot change any more."
        for phase in finished
        for key in changes
        if _within(key, f"phase.{phase}")
    ]
    if problems:
        raise ConfigError(problems)


def _allowed(key: str) -> bool:
    if key.startswith("phase.") and key.rpartition(".")[2] in ("epochs", "steps"):
        return True
    return any(_within(key, prefix) for prefix in RESUMABLE)


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key path, old value, new value) of whatever differs between two configs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            below = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key), new.get(key), below)
    elif old != new:
        yield path, old, new


def _within(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def key_of(override: str) -> str:
    """The key or group that an override sets."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _value(override: str) -> str:
    return unquoted(override.partition("=")[2])
