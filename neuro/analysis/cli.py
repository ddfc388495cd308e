"""`python -m neuro runs|scalars|wandb`: lists runs, scalars, and W&B's offline files."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuro.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from neuro.runs.record import RunRecord

log = logging.getLogger(__name__)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands `runs`, `scalars` and `wandb`."""
    runs = commands.add_parser("runs", help="list the runs below a directory and their status")
    runs.add_argument("directory", nargs="?", type=Path, default=Path("outputs"))
    runs.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=2.0,
        metavar="SECONDS",
        help="show the running ones and where they are, again every so many seconds (2)",
    )
    runs.set_defaults(run=lambda a: _runs(a.directory, a.watch))

    scalars = commands.add_parser("scalars", help="show logged scalars of runs below a directory")
    scalars.add_argument("directory", nargs="?", type=Path, default=Path("outputs"))
    scalars.add_argument("--tags", help="regular expression for names, as in 'val/|loss'")
    scalars.add_argument("--runs", help="regular expression for paths of runs")
    scalars.add_argument("--group", action="append", help="a group of runs (can be repeated)")
    scalars.add_argument("--csv", type=Path, help="write all values to this file instead")
    scalars.add_argument(
        "--per-run", action="store_true", help="write one file per run; --csv is their folder"
    )
    scalars.set_defaults(run=show_scalars)

    offline = commands.add_parser("wandb", help="list W&B's offline runs and the upload command")
    offline.add_argument("directory", nargs="?", type=Path, default=Path("outputs"))
    offline.add_argument(
        "--folders", action="store_true", help="print only the arguments of `wandb sync`"
    )
    offline.set_defaults(run=lambda a: show_offline(a.directory, folders_only=a.folders))


def _runs(directory: Path, seconds: float | None) -> None:
    if seconds is None:
        show_runs(directory)
        return
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--watch: got {seconds:g}; expected seconds above 0.")
    from neuro.analysis.watching import watch

    watch(directory, seconds)


def show_runs(directory: Path) -> None:
    """Print one row for each run, the newest last. CheckpointError if there is no run."""
    from neuro.runs.record import find_runs

    dated: list[tuple[float, list[str]]] = []
    for run in find_runs(directory):
        try:
            dated.append((run.time, _run_row(run)))
        except CheckpointError as error:
            log.warning("%s", error)
            dated.append((-math.inf, ["", run.path.name, "", "damaged", "-", str(run.path)]))
    rows = [row for _, row in sorted(dated, key=lambda pair: pair[0])]
    if not rows:
        raise CheckpointError(f"{directory}: holds no runs.")
    _print(
        f"runs in {directory}",
        ["started", "name", "mode", "status", "objective", "directory"],
        rows,
    )


def _run_row(run: RunRecord) -> list[str]:
    """Start, name, mode, status, objective and directory. CheckpointError if it is damaged."""
    objective = None if run.report is None else run.report.objective
    return [
        str(run.meta.get("started") or "")[:19].replace("T", " "),
        run.name,
        run.meta.get("mode") or "train",
        run.status,
        "-" if objective is None else f"{objective:.4f}",
        str(run.path),
    ]


def show_offline(directory: Path, *, folders_only: bool = False) -> None:
    """Print W&B's offline runs and the command that uploads them, or only the folders to upload.

    CheckpointError if there is no offline run.
    """
    from neuro.analysis.offline import find_offline, sync_command, waiting_folders
    from neuro.runs.record import readable_status

    runs = find_offline(directory)
    if not runs:
        raise CheckpointError(f"{directory}: holds no offline files of W&B.")
    if folders_only:
        for folder in waiting_folders(runs):
            print(folder)
        return
    rows = [
        [_name(r.run), readable_status(r.run), str(len(r.files)), r.state, str(r.run.path)]
        for r in runs
    ]
    _print(
        f"W&B's offline runs in {directory}",
        ["name", "status", "files", "upload", "directory"],
        rows,
    )
    command = sync_command(directory, runs)
    print("nothing waits for upload" if command is None else f"upload: {command}")


def _name(run: RunRecord) -> str:
    """The run's name, or that of its directory if run_meta.json is damaged."""
    try:
        return run.name
    except CheckpointError:
        return run.path.name


def show_scalars(arguments: argparse.Namespace) -> None:
    """Print first, last and extreme values of each run's scalars, or write all values to CSV.

    ConfigError if no scalar fits the options, or for an option that is wrong.
    """
    from neuro.analysis.reader import RunReader

    if arguments.per_run and arguments.csv is None:
        raise ConfigError("--per-run: writes files; add --csv <folder>.")
    reader = RunReader(arguments.directory)
    if arguments.csv is not None:
        written = reader.to_csv(
            arguments.csv,
            arguments.tags,
            groups=arguments.group,
            runs=arguments.runs,
            per_run=arguments.per_run,
        )
        print(f"{len(written)} file(s) written: {', '.join(map(str, written[:3]))}")
        return
    summary = reader.summary(arguments.tags, groups=arguments.group, runs=arguments.runs)
    if summary.empty:
        raise ConfigError(
            f"{arguments.directory}: no scalar matches. Names: {', '.join(reader.tags())}."
        )
    rows = [[f"{v:.6g}" if isinstance(v, float) else str(v) for v in row] for row in summary.values]
    _print(f"scalars in {arguments.directory}", list(map(str, summary.columns)), rows)


def _print(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from neuro.analysis.compare.formats import terminal
    from neuro.analysis.compare.tables import Table

    table = Table(title, tuple(headings), tuple(map(tuple, rows)))
    print(terminal(table))
