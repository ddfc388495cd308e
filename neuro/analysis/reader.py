"""Reads the scalars of many runs into one table, from metrics.jsonl or TensorBoard event files.

Directories are searched at any level: a run, a set of repeats, a sweep, or all of `outputs`. What
cannot be read is skipped with a warning.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neuro.errors import BackendUnavailable, CheckpointError, ConfigError, nearest
from neuro.runs.record import META, METRICS, RunRecord, is_run, walk

if TYPE_CHECKING:
    import pandas as pd
    from tensorboard.compat.proto.summary_pb2 import Summary

#: columns of the table, which has one row per scalar
COLUMNS = ("step", "tag", "value", "wall_time", "run", "group", "repeat")

_EVENTS = "events.out.tfevents."  # in the name of every event file
_START, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")  # of a record in an event file
_REPEAT = re.compile(r"repeat_(\d+)$")

Row = tuple[int, str, float, float, str, str, int]

log = logging.getLogger(__name__)


class RunReader:
    """The scalars of all runs at or below a directory.

    A run is a run directory, or any directory with TensorBoard event files (runs of other
    programs). A run directory with both is read from `metrics.jsonl`, which is always complete.

    - `run`: path relative to the root, `.` for the root itself
    - `group`: the run's root key `group`, or else the name of the directory above the run, which is
      the sweep, the set of repeats or the experiment
    - `repeat`: k of a `repeat_<k>` directory, else 0
    - `wall_time`: seconds since 1970
    """

    def __init__(self, root: str | Path) -> None:
        """ConfigError if the directory does not exist, CheckpointError if it holds no run."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(f"{root}: no such directory. Give a run or a directory above runs.")
        self._runs = dict(self._find())
        if not self._runs:
            raise CheckpointError(f"{root}: holds no run and no TensorBoard event file.")

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs' paths relative to the root, sorted."""
        return tuple(self._runs)

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """All scalars, with the columns step, tag, value, wall_time, run, group, repeat.

        Values that were not finite are NaN. Rows of a run and tag are sorted by step; of a step
        that occurs twice, because the run was resumed, the last value is kept.
        """
        import pandas as pd

        rows = [row for name, path in self._runs.items() for row in self._rows(name, path)]
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        frame = frame.astype(
            {"step": "int64", "value": "float64", "wall_time": "float64", "repeat": "int64"}
        )
        return frame.drop_duplicates(["run", "tag", "step"], keep="last", ignore_index=True)

    def scalars(
        self,
        tags: str | None = None,
        *,
        groups: str | Iterable[str] | None = None,
        runs: str | None = None,
    ) -> pd.DataFrame:
        """The rows that fit all given conditions.

        - `tags`, `runs`: regular expressions that match anywhere in the tag or the run
        - `groups`: one or more names of groups

        ConfigError for an invalid regular expression and for an unknown group.
        """
        frame = self.frame
        for key, column, pattern in (("tags", "tag", tags), ("runs", "run", runs)):
            if pattern is not None:
                frame = frame[_matching(frame[column], pattern, key)]
        if groups is not None:
            chosen = [groups] if isinstance(groups, str) else list(groups)
            known = self.groups()
            for group in chosen:
                if group not in known:
                    raise ConfigError(
                        f"groups: {self.root} has no group '{group}'. Groups: "
                        f"{', '.join(known)}.{nearest(group, known)}"
                    )
            frame = frame[frame["group"].isin(chosen)]
        return frame.reset_index(drop=True)

    def tags(self, pattern: str | None = None) -> list[str]:
        """The tags that match a regular expression, sorted."""
        return sorted(self.scalars(pattern)["tag"].unique())

    def groups(self) -> dict[str, list[str]]:
        """The runs of each group that has scalars, sorted by path."""
        pairs = self.frame[["group", "run"]].drop_duplicates()
        return {str(name): list(part["run"]) for name, part in pairs.groupby("group")}

    def summary(
        self,
        tags: str | None = None,
        *,
        groups: str | Iterable[str] | None = None,
        runs: str | None = None,
    ) -> pd.DataFrame:
        """One row per run and tag: points, first and last step, and last, min and max value.

        Takes the arguments of `scalars`.
        """
        frame = self.scalars(tags, groups=groups, runs=runs).sort_values("step", kind="stable")
        found = frame.groupby(["group", "repeat", "run", "tag"], sort=True).agg(
            points=("step", "size"),
            first_step=("step", "min"),
            last_step=("step", "max"),
            last=("value", lambda values: values.iloc[-1]),  # "last" would skip NaN
            min=("value", "min"),
            max=("value", "max"),
        )
        return found.reset_index()

    def to_csv(
        self,
        path: str | Path,
        tags: str | None = None,
        *,
        groups: str | Iterable[str] | None = None,
        runs: str | None = None,
        per_run: bool = False,
    ) -> list[Path]:
        """Write scalars to the file `path`, or with `per_run` to one file per run in that folder.

        A single file has the columns of `frame`, a run's file one row per step and one column per
        tag. Takes the arguments of `scalars`; returns the written files.
        """
        frame, path = self.scalars(tags, groups=groups, runs=runs), Path(path)
        if not per_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.to_csv(path, index=False)
            return [path]
        path.mkdir(parents=True, exist_ok=True)
        written = []
        for run, part in frame.groupby("run", sort=True):
            if run == ".":
                written.append(path / f"{self.root.resolve().name}.csv")
            else:  # below folders of the same names: a/b_c and a_b/c are two runs
                written.append(path / f"{run}.csv")
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            part.pivot(index="step", columns="tag", values="value").to_csv(written[-1])
        return written

    def _find(self) -> Iterator[tuple[str, Path]]:
        for folder, files in walk(self.root):
            if is_run(folder) or any(_EVENTS in file for file in files):
                yield folder.relative_to(self.root).as_posix(), folder

    def _rows(self, name: str, path: Path) -> Iterator[Row]:
        own = is_run(path)
        group = self._group(path) if own else None
        place = (self.root / name).resolve()
        repeated = _REPEAT.search(place.name)
        labels = name, group or place.parent.name, int(repeated[1]) if repeated else 0
        jsonl = path / METRICS
        if own and jsonl.is_file():
            points = _from_jsonl(jsonl)
        else:
            points = _from_events(path / "tensorboard" if own else path)
        for step, tag, value, wall_time in points:
            yield (step, tag, value, wall_time, *labels)

    def _group(self, path: Path) -> str | None:
        try:
            return RunRecord(path).meta.get("group")
        except CheckpointError as error:
            log.warning("%s: skipped (%s)", path / META, error)
            return None


def _from_jsonl(path: Path) -> Iterator[tuple[int, str, float, float]]:
    """The scalars of a metrics.jsonl; a warning counts the lines that are not valid rows."""
    invalid = 0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        log.warning("%s: skipped, it cannot be read (%s)", path, error.strerror)
        return
    for line in lines:
        try:
            row = json.loads(line)
            step, wall_time = int(row.pop("step")), float(row.pop("time", math.nan))
        except (ValueError, TypeError, AttributeError, KeyError):
            invalid += bool(line.strip())
            continue
        for tag, value in row.items():
            if value is None or isinstance(value, (int, float)):
                yield step, tag, math.nan if value is None else float(value), wall_time
    if invalid:
        log.warning("%s: %d incomplete line(s) skipped", path, invalid)


def _from_events(folder: Path) -> Iterator[tuple[int, str, float, float]]:
    """The scalars of the event files in a folder, oldest file first.

    A writer that was restarted with `purge_step` replaces what was written from that step on.
    """
    found = (file for file in folder.glob(f"*{_EVENTS}*") if file.is_file())
    files = sorted(found, key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        return
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except ImportError as error:
        raise BackendUnavailable(
            f"{folder}: reading TensorBoard event files needs the package 'tensorboard'. "
            "Install it with `pip install tensorboard`."
        ) from error
    points: list[tuple[int, str, float, float]] = []
    plugins: dict[str, str] = {}
    for file in files:
        try:
            for record, checksum in _records(file):
                event = Event.FromString(record)
                if event.session_log.status == SessionLog.START:  # a restart with purge_step
                    points = [point for point in points if point[0] < event.step]
                numbers: list[tuple[int, str, float, float]] = []
                for value in event.summary.value:
                    # only the first value of a tag names the plugin
                    plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                    number = _scalar(value, plugins[value.tag])
                    if number is not None:
                        numbers.append((int(event.step), value.tag, number, event.wall_time))
                if numbers and masked_crc32c(record) != checksum:  # slow for pictures
                    raise ValueError("wrong checksum")
                points += numbers
        except Exception as error:  # a damaged protobuf raises errors of many types
            log.warning("%s: incomplete, read as far as possible (%s)", file, error)
    yield from points


def _scalar(value: Summary.Value, plugin: str) -> float | None:
    """The number that a summary holds, as a float (torch, TF 1) or as a tensor (TF 2, Keras)."""
    from tensorboard.util import tensor_util

    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor") and plugin == "scalars":
        return float(tensor_util.make_ndarray(value.tensor).item())
    return None


def _records(file: Path) -> Iterator[tuple[bytes, int]]:
    """The records of an event file and the checksums of them. ValueError if it ends within one.

    A TFRecord is length (8 bytes), CRC of the length (4), data, CRC of the data (4).
    """
    left = file.stat().st_size
    if left == 0:
        raise ValueError("empty")
    with file.open("rb") as content:
        while left > 0:
            start = content.read(_START.size)
            length = _START.unpack(start)[0] if len(start) == _START.size else left
            left -= _START.size + length + _CHECKSUM.size
            if left < 0:
                raise ValueError("it ends within a record")
            yield content.read(length), _CHECKSUM.unpack(content.read(_CHECKSUM.size))[0]


def _matching(values: pd.Series, pattern: str, key: str) -> pd.Series:
    try:
        return values.str.contains(re.compile(pattern), regex=True)
    except re.error as error:
        raise ConfigError(f"{key}: '{pattern}' is not a regular expression ({error}).") from error
