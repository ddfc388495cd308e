"""Read run directories: configuration, metrics, report and status of a run.

Each file is read on first access, so that listing hundreds of runs is fast. A run directory is one
with `run_meta.json` and `config.yaml`; `metrics.jsonl` and `report.json` may be missing or
incomplete, for instance while the run is active.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from neuro.config.renamed import config_of_today, override_of_today
from neuro.errors import CheckpointError, ConfigError
from neuro.io.files import read_json
from neuro.runs import lock
from neuro.runs.report import FILE as REPORT
from neuro.runs.report import Report

#: file names inside a run directory
CONFIG = "config.yaml"
META = "run_meta.json"
METRICS = "metrics.jsonl"

#: key of run_meta.json: `digest` of config.yaml as the run wrote it
CONFIG_DIGEST = "config_sha256"

#: expected types of the values in run_meta.json that neuro reads
_TYPES = {
    **dict.fromkeys(
        ("run_id", "name", "group", "mode", "status", "config_dir", CONFIG_DIGEST), str
    ),
    **dict.fromkeys(("tags", "overrides", "resumed"), list),
    **dict.fromkeys(("seed", "repeat"), int),
    "found_lr": dict,
}

#: the mode of a directory whose runs are repeats of one experiment with other seeds
SET = "repeats"

#: folders that are not searched for runs, anywhere and inside a run
_HIDDEN = frozenset({"checkpoints", ".hydra", ".git", ".venv"})
_INSIDE = _HIDDEN | {"plots", "wandb", "tensorboard"}


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class Series(NamedTuple):
    """One metric over a run: optimizer steps and the values at them (NaN where not finite)."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


class RunRecord:
    """A run, read from its directory."""

    def __init__(self, path: str | Path) -> None:
        """CheckpointError if the directory is not a run; says what is missing."""
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path}: there is no such run directory.")
        missing = [name for name in (META, CONFIG) if not (self.path / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{self.path} is not a run directory: {' and '.join(missing)} missing."
                + _hint(self.path)
            )

    def __repr__(self) -> str:
        return f"RunRecord({str(self.path)!r})"

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """run_meta.json: run_id, name, project, group, tags, status, times, seed, versions.

        CheckpointError if it cannot be read or a value has another type than neuro writes.
        """
        content = read_json(self.path / META)
        for name, expected in _TYPES.items():
            value = content.get(name)
            if value is not None and not isinstance(value, expected):
                raise CheckpointError(
                    f"{self.path / META}: damaged, {name} is of type {type(value).__name__} "
                    f"instead of {expected.__name__}."
                )
        if not all(isinstance(text, str) for text in content.get("overrides") or ()):
            raise CheckpointError(f"{self.path / META}: damaged, overrides must be strings.")
        return content

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, converted to today's keys if an older version wrote it."""
        path = self.path / CONFIG
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"{path}: not valid YAML ({error}).") from error
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: expected a mapping, found {type(content).__name__}.")
        return config_of_today(content)

    def check_config_unedited(self) -> None:
        """ConfigError if config.yaml is not what the run wrote; older runs have not recorded it."""
        recorded = self.meta.get(CONFIG_DIGEST)
        path = self.path / CONFIG
        if recorded is not None and digest(path.read_text(encoding="utf-8")) != recorded:
            raise ConfigError(
                f"{path} was edited after the run had written it, and the checkpoints belong to "
                "the former values. Undo the change, and give what may change as an override."
            )

    @functools.cached_property
    def overrides(self) -> tuple[str, ...]:
        """The overrides of the command line that started the run, converted to today's keys."""
        return tuple(map(override_of_today, self.meta.get("overrides") or ()))

    def section(self, name: str) -> dict[str, Any]:
        """One group of the configuration. CheckpointError if it has none of this name."""
        content = self.config.get(name)
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.path / CONFIG}: has no group '{name}'.")
        return content

    @functools.cached_property
    def report(self) -> Report | None:
        """What the run reported; None while there is no report."""
        return Report.load(self.path) if (self.path / REPORT).is_file() else None

    @property
    def status(self) -> str:
        """running, completed, interrupted, failed or pruned; `unknown` if none is recorded.

        `killed` if the recorded status is running but no process holds the run's lock.
        """
        status = str(self.meta.get("status", "unknown"))
        return "killed" if status == "running" and lock.holder(self.path) is None else status

    @property
    def is_set(self) -> bool:
        """True for a set of repeats, which has its runs as subdirectories."""
        return self.meta.get("mode") == SET

    def repeats(self) -> list[RunRecord]:
        """The runs of a set, in the order of their seeds."""
        found = [path for path in self.path.glob("repeat_*") if is_run(path)]
        return [RunRecord(p) for p in sorted(found, key=lambda p: int(p.name.split("_")[1]))]

    @property
    def name(self) -> str:
        return str(self.meta.get("name") or self.path.name)

    @property
    def seed(self) -> int | None:
        return self.meta.get("seed")

    @property
    def time(self) -> float:
        """When the run ended, or else began, in seconds since 1970; orders runs by age.

        -inf if neither is recorded. File times are not used: they change when a run is copied.
        """
        moments = (_timestamp(self.meta.get(key)) for key in ("finished", "started"))
        return next((moment for moment in moments if moment is not None), -math.inf)

    def metrics(self) -> dict[str, Series]:
        """Every logged metric as a series; an incomplete last line is left out.

        If a step has a metric twice, the later value counts.
        """
        path = self.path / METRICS
        if not path.exists():
            return {}
        if not path.is_file():
            raise CheckpointError(f"{path}: not a file. Move it away; the run's metrics are lost.")
        found: dict[str, dict[int, float]] = {}
        with path.open("rb") as file:
            for line in file:
                row = _row(line)
                step = row.pop("step", None)
                if not isinstance(step, int):
                    continue
                for name, value in row.items():
                    if name != "time" and (value is None or isinstance(value, (int, float))):
                        points = found.setdefault(name, {})
                        points[step] = math.nan if value is None else float(value)
        return {
            name: Series(tuple(points), tuple(points.values())) for name, points in found.items()
        }


def is_run(path: Path) -> bool:
    """Whether a directory is a run."""
    return (path / META).is_file() and (path / CONFIG).is_file()


def find_runs(root: str | Path) -> list[RunRecord]:
    """All runs at or below a directory, at any level, in the order of their paths.

    ConfigError if there is no such directory; an empty list if it holds no run.
    """
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f"{root}: there is no such directory to look for runs in.")
    return [RunRecord(folder) for folder, _ in walk(root) if is_run(folder)]


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """All folders at or below a directory in which a run may be, with their files, in order.

    Symbolic links are followed; a folder that can be reached on several paths is visited once.
    """
    visited: set[Path] = set()
    for directory, folders, files in os.walk(root, followlinks=True):
        place = Path(directory).resolve()
        if place in visited:
            folders.clear()
            continue
        visited.add(place)
        inside = _INSIDE if is_run(Path(directory)) else _HIDDEN
        folders[:] = sorted(name for name in folders if name not in inside)
        yield Path(directory), files


def latest_run(root: str | Path, *, accept: Callable[[RunRecord], bool] | None = None) -> RunRecord:
    """The newest completed run below a directory; failed and interrupted ones do not count.

    `accept` restricts the choice, for instance to runs of one model. CheckpointError if there is
    none; it gives the number of runs of each status.
    """
    runs = find_runs(root) if Path(root).is_dir() else []
    completed = [run for run in runs if readable_status(run) == "completed"]
    fitting = [run for run in completed if accept is None or accept(run)]
    if fitting:
        return max(fitting, key=lambda run: run.time)
    if completed:
        found = f"{len(completed)} completed, but none of them fits"
    elif runs:
        counts: dict[str, int] = {}
        for run in runs:
            counts[readable_status(run)] = counts.get(readable_status(run), 0) + 1
        found = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    else:
        found = "no run at all"
    raise CheckpointError(f"{root}: there is no completed run to take. Found: {found}.")


def readable_status(run: RunRecord) -> str:
    """The status of a run, `damaged` if its run_meta.json cannot be read."""
    try:
        return run.status
    except CheckpointError:
        return "damaged"


def _row(line: bytes) -> dict[str, Any]:
    """A line of metrics.jsonl; empty if it is not a JSON object."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return dict(row) if isinstance(row, Mapping) else {}


def _timestamp(value: object) -> float | None:
    """Seconds since 1970 from a number or an ISO time (without a zone: UTC)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def _hint(path: Path) -> str:
    """Name the run if the given directory is its parent or one of its folders."""
    if is_run(path.parent):
        return f" The run is {path.parent}."
    inside = sorted(child for child in path.iterdir() if child.is_dir() and is_run(child))
    return f" Runs in it: {', '.join(child.name for child in inside[:3])}." if inside else ""
