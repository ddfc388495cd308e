"""`python -m neuro runs --watch`: living runs, redrawn from their run_state.json."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from neuro.runs.record import RunRecord, find_runs, readable_status
from neuro.runs.state import read_state
from neuro.runtime.output import clock_time

_HEADINGS = ("run", "status", "phase", "updates", "loss", "best", "per second", "left", "directory")


def watch(directory: Path, seconds: float, rounds: int | None = None) -> None:
    """Show the running runs below a directory until Ctrl-C, redrawn every `seconds`.

    Runs that end in the meantime stay with their last status. Where standard output is no terminal,
    each table is printed below the one before. `rounds`: the number of looks; None: without end.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout)
    seen: set[Path] = set()
    looks = 0
    with Live(console=console, auto_refresh=False) as live:
        try:
            while rounds is None or looks < rounds:
                if looks:
                    time.sleep(seconds)
                looks += 1
                text = _table(directory, seen)
                if console.is_terminal:
                    live.update(Text.from_ansi(text), refresh=True)
                else:
                    print(text, flush=True)
        except KeyboardInterrupt:
            return


def _table(directory: Path, seen: set[Path]) -> str:
    """Runs that are running or were at an earlier look, whose paths are in `seen`."""
    from neuro.analysis.compare.formats import terminal
    from neuro.analysis.compare.tables import Table

    title = f"running in {directory}, {time.strftime('%H:%M:%S')}"
    rows = []
    for run in find_runs(directory) if directory.is_dir() else []:
        status = readable_status(run)
        if status == "running":
            seen.add(run.path)
        if run.path in seen and not run.is_set:
            rows.append((*_row(run, status), str(run.path.relative_to(directory))))
    if not rows:
        return f"{title}: none yet; Ctrl-C ends the watch"
    return terminal(Table(title, _HEADINGS, tuple(rows)))


def _row(run: RunRecord, status: str) -> list[str]:
    state = read_state(run.path)
    if "phase" not in state:  # not in a phase yet, or not a run that trains
        return [run.name, status, *["-"] * 6]
    done, steps = state["phase_step"], state["phase_steps"]
    rate, unit = state["samples_per_s"], "samples"
    if state["tokens_per_s"] is not None:
        rate, unit = state["tokens_per_s"], "tokens"
    left = state["eta_s"] if status == "running" else None
    return [
        run.name,
        status,
        f"{state['phase']} {state['phase_number']}/{state['phases']}",
        f"{done}/{steps} {done / max(steps, 1):.0%}",
        _number(state["loss"]),
        _number(state["best"]),
        "-" if rate is None else f"{rate:.4g} {unit}",
        "-" if left is None else clock_time(left),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
