"""Scalars of many runs as one table: from their metrics.jsonl, or from TensorBoard's event files.

A folder is searched at any level, so a single run, the repeats of one, a sweep and everything
below `outputs` are read alike. Only the lines that are asked for are kept. What cannot be read is
left out, and a warning names it.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuro.errors import BackendUnavailable, CheckpointError, ConfigError, nearest
from neuro.runs.record import META, METRICS, RunRecord, is_run, walk

if TYPE_CHECKING:
    import pandas as pd

#: columns of the table, one row per scalar
COLUMNS = ("step", "tag", "value", "wall_time", "run", "group", "repeat")

_EVENTS = "events.out.tfevents."
_LENGTH = struct.Struct("<Q")
_REPEAT = re.compile(r"repeat_(\d+)$")

Row = tuple[int, str, float, float, str, str, int]

log = logging.getLogger(__name__)


class RunReader:
    """The scalars of all runs at or below a folder.

    A run is a run directory, or any folder with TensorBoard event files of its own (runs of other
    programs). A run directory that has both is read from `metrics.jsonl`, which is never behind.

    - `run`: path below the folder that was read, `.` for the folder itself
    - `group`: the run's `group`; else the sweep, set of repeats or experiment that it lies in (the
      folder above it)
    - `repeat`: k of a `repeat_<k>` directory, else 0
    - `wall_time`: seconds since 1970
    """

    def __init__(self, root: str | Path) -> None:
        """ConfigError if there is no such directory, CheckpointError if no run is in it."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(f"{root}: there is no such directory to look for runs in.")
        self._runs = dict(self._find())
        if not self._runs:
            raise CheckpointError(f"{root}: no run in there, and no TensorBoard event file.")

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that were found, in the order of their paths."""
        return tuple(self._runs)

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """Everything, read once: columns step, tag, value, wall_time, run, group, repeat.

        Values that were not finite are NaN. Within a run and tag, rows are in the order of steps;
        of a step that a resumed run repeated, the last value counts.
        """
        import pandas as pd

        rows = [row for name, path in self._runs.items() for row in self._rows(name, path)]
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        frame = frame.astype(
            {"step": "int64", "value": "float64", "wall_time": "float64", "repeat": "int64"}
        )
        return frame.drop_duplicates(["run", "tag", "step"], keep="last", ignore_index=True)

    def scalars(
        self, tags: str | None = None, *, groups: str | Iterable[str] | None = None,
        runs: str | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """The rows whose tag and run match regular expressions (anywhere in them), of some groups.

        ConfigError for a pattern that is none, and for a group that does not exist.
        """
        frame = self.frame
        for key, column, pattern in (("tags", "tag", tags), ("runs", "run", runs)):
            if pattern is not None:
                frame = frame[_matching(frame[column], pattern, key)]
        if groups is not None:
            wanted = [groups] if isinstance(groups, str) else list(groups)
            for group in wanted:
                if group not in self.groups():
                    raise ConfigError(
                        f"groups: there is no group '{group}' in {self.root}. Groups: "
                        f"{', '.join(self.groups())}.{nearest(group, self.groups())}"
                    )
            frame = frame[frame["group"].isin(wanted)]
        return frame.reset_index(drop=True)

    def tags(self, pattern: str | None = None) -> list[str]:
        """Names of the scalars, sorted."""
        return sorted(self.scalars(pattern)["tag"].unique())

    def groups(self) -> dict[str, list[str]]:
        """The runs of each group that has scalars, in the order of their paths."""
        pairs = self.frame[["group", "run"]].drop_duplicates()
        return {str(name): list(part["run"]) for name, part in pairs.groupby("group")}

    def summary(self, tags: str | None = None, **chosen: Any) -> pd.DataFrame:
        """One row per run and tag: points, first and last step, and last, min and max value.

        Takes the arguments of `scalars`.
        """
        frame = self.scalars(tags, **chosen).sort_values("step", kind="stable")
        found = frame.groupby(["group", "repeat", "run", "tag"], sort=True).agg(
            points=("step", "size"), first_step=("step", "min"), last_step=("step", "max"),
            last=("value", _last), min=("value", "min"), max=("value", "max"),
        )  # fmt: skip
        return found.reset_index()

    def to_csv(
        self, path: str | Path, *, per_run: bool = False, tags: str | None = None, **chosen: Any
    ) -> list[Path]:
        """Write the chosen scalars to one file, or with `per_run` to one per run in a folder.

        A run's file has a row per step and a column per tag. Returns the files written.
        """
        frame, path = self.scalars(tags, **chosen), Path(path)
        if not per_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.to_csv(path, index=False)
            return [path]
        path.mkdir(parents=True, exist_ok=True)
        written = []
        for run, part in frame.groupby("run", sort=True):
            name = self.root.resolve().name if run == "." else str(run).replace("/", "_")
            written.append(path / f"{name}.csv")
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
            log.warning("%s: passed over (%s)", path / META, error)
            return None


def _from_jsonl(path: Path) -> Iterator[tuple[int, str, float, float]]:
    """The scalars of a metrics.jsonl; lines that are no rows are counted and told."""
    broken = 0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        log.warning("%s: passed over, it cannot be read (%s)", path, error.strerror)
        return
    for line in lines:
        try:
            row = json.loads(line)
            step, wall_time = int(row.pop("step")), float(row.pop("time", math.nan))
        except (ValueError, TypeError, AttributeError, KeyError):
            broken += bool(line.strip())
            continue
        for tag, value in row.items():
            if value is None or isinstance(value, (int, float)):
                yield step, tag, math.nan if value is None else float(value), wall_time
    if broken:
        log.warning("%s: %d half-written line(s) passed over", path, broken)


def _from_events(folder: Path) -> Iterator[tuple[int, str, float, float]]:
    """The scalars of a folder's own event files, oldest file first."""
    files = sorted(folder.glob(f"*{_EVENTS}*"), key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        return
    try:
        from tbparse import SummaryReader
    except ImportError as error:
        raise BackendUnavailable(
            f"{folder}: TensorBoard event files are read with the package 'tbparse'. "
            "Install it with `pip install tbparse`."
        ) from error
    for file in files:
        try:
            frame = SummaryReader(str(file), extra_columns={"wall_time"}).scalars
        except Exception as error:  # whatever a damaged protobuf raises
            log.warning("%s: passed over, it cannot be read (%s)", file, error)
            continue
        if not _is_whole(file):
            log.warning("%s: half-written, read as far as it goes", file)
        if frame.empty:
            continue
        points: Mapping[str, Any] = frame.to_dict("list")
        yield from zip(
            map(int, points["step"]), points["tag"], map(float, points["value"]),
            map(float, points["wall_time"]), strict=True,
        )  # fmt: skip


def _is_whole(file: Path) -> bool:
    """Whether an event file has records and ends with one (TFRecord: length, CRC, data, CRC)."""
    size, position = file.stat().st_size, 0
    with file.open("rb") as content:
        while position + _LENGTH.size <= size:
            content.seek(position)
            position += _LENGTH.unpack(content.read(_LENGTH.size))[0] + 16
    return position == size > 0


def _last(values: pd.Series) -> float:
    return float(values.iloc[-1])


def _matching(values: pd.Series, pattern: str, key: str) -> pd.Series:
    try:
        return values.str.contains(re.compile(pattern), regex=True)
    except re.error as error:
        raise ConfigError(f"{key}: '{pattern}' is no regular expression ({error}).") from error
