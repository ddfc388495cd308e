"""Locate saved runs, compose their configs again, and check which keys a resumed run may change.

Hydra composes a saved run from its own overrides plus the new ones, so that a new override can name
any of its keys. Values then come from the run's config.yaml, except for keys that a new override
sets: files in conf/ may have been edited since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from neuro.config.commands import unquoted
from neuro.config.modes import OF_DEPLOYMENT, OF_GENERATION
from neuro.config.paths import expanded, with_paths
from neuro.errors import CheckpointError, ConfigError
from neuro.runs.record import RunRecord, is_run

#: keys that name the run to compose from; at most one of them is used at a time
_SOURCES = ("resume", "run")

#: keys of one invocation, which are no part of a run's definition
_INVOCATION = (*_SOURCES, "mode", "check_batches", *OF_GENERATION, *OF_DEPLOYMENT)

#: one run, although the config of the sweep that it belongs to says `hydra.mode: MULTIRUN`
_SINGLE = "hydra.mode=RUN"

#: keys that a resumed run may change: none that concerns the updates it has made already
RESUMABLE = (
    "hardware", "tracking", "data.batch_size", "data.in_memory", "data.root", "data.path",
    "data.images.path",
    "trainer.accumulate", "trainer.log", "trainer.validation", "trainer.checkpoint",
    "trainer.keep", "trainer.max_skipped", "callbacks.progress", "callbacks.plots",
    "callbacks.diagnostics", "callbacks.profiler", "callbacks.early_stopping",
    "callbacks.gradient_health", "tags", "group", "project", "runs_dir", "repeats", *_INVOCATION,
)  # fmt: skip


class Location(NamedTuple):
    """A run directory, and a checkpoint file in it if one was given."""

    directory: Path
    checkpoint: Path | None


def locate(source: str, key: str) -> Location:
    """The run that a directory or checkpoint file belongs to. CheckpointError if there is none.

    `key`: the config key that names it, for messages.
    """
    path = Path(expanded(source))
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
    """Paths of single runs, each set replaced by its repeats. CheckpointError if one is no run."""
    found: list[str] = []
    for one in [source] if isinstance(source, str) else source:
        location = locate(one, key)
        record = RunRecord(location.directory)
        found += [str(run.path) for run in record.repeats()] if record.is_set else [one]
    return found


class SavedCall(NamedTuple):
    """Arguments that a run was composed from: overrides, and the directory of `--config-dir`."""

    overrides: tuple[str, ...] = ()
    config_dir: str | None = None


def config_dir_of(sources: Iterable[Any]) -> str | None:
    """The directory of `--config-dir` among Hydra's config sources; None without one."""
    return next((s.path for s in sources if s.provider == "command-line"), None)


def saved_call(arguments: Sequence[str]) -> SavedCall:
    """Arguments of the run that `resume=` or `run=` names, without overrides that are given again.

    A run of a sweep is continued alone, without the other runs.
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
    multirun = {"-m", "--multirun"} & {*arguments} or "hydra.mode" in given
    kept = [
        override
        for override in run_overrides(record.overrides)
        if not any(_within(key_of(override), key) for key in given)
    ]
    overrides = kept if multirun else [_SINGLE, *kept]
    return SavedCall(tuple(overrides), record.meta.get("config_dir"))


def run_overrides(overrides: Iterable[str]) -> list[str]:
    """The overrides that define a run, without those that concern one invocation."""
    return [override for override in overrides if key_of(override) not in _INVOCATION]


def continued_config(
    composed: DictConfig, source: str, key: str, overrides: Iterable[str], groups: Iterable[str]
) -> DictConfig:
    """The saved config of a run, with values of the composed config for keys of new overrides.

    ConfigError for an override that selects an option of a group with several keys.
    """
    record = RunRecord(locate(source, key).directory)
    saved = OmegaConf.create(record.config)
    for name in composed:
        if name not in saved:  # a key that was introduced after the run
            OmegaConf.update(saved, str(name), composed[name], force_add=True)
    original = set(record.overrides)
    for override in overrides:
        if override in original:
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
    """Keys that a resumed run changes, with new values. ConfigError for keys that must not."""
    # older versions saved paths as they were given, today's are absolute
    changes = {key: new for key, _, new in differences(with_paths(saved), with_paths(wanted))}
    refused = [key for key in changes if not _allowed(key)]
    if refused:
        raise ConfigError(
            f"{key}: cannot change when a run is resumed, because the run has trained with the "
            "old value. Start a new run with init_from instead."
            for key in refused
        )
    return {key: new for key, new in changes.items() if key not in _INVOCATION}


def changed_keys(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys (path, old, new) that define a run and differ between its config and a composed one.

    What a run itself fills in (null, `auto`, `latest`) does not count.
    """
    return [
        (key, old, new)
        for key, old, new in differences(with_paths(saved), with_paths(wanted))
        if new not in (None, "auto", "latest") and not any(_within(key, one) for one in RESUMABLE)
    ]


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
    """Yield (key path, old value, new value) for each difference between two configs."""
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
